"""One scene from job to result: what is asked, what is done already, the plan, the run, the upload."""
