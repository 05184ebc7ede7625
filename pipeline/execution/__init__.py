"""A run on Dask: the chunk on a worker, the run directory, the scheduler's client."""
