"""Maps of many scenes: what is asked for, planned and run."""
