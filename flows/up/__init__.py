"""Run Prefect, Dask, schedules, inbox and map on one machine under one supervisor."""
