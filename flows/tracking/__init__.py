"""What Prefect shows of a run: tasks, artifacts, progress."""
