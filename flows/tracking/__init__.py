"""What Prefect shows of a run (tasks, artifacts, progress), and what its server needs: work pool, automations."""
