"""Everything on this machine at once: Prefect, Dask, schedules, inbox and map under one supervisor."""
