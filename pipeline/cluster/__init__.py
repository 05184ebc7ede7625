"""The Dask cluster: connecting to it, its workers, what this machine may take, and how a loss is reported."""
