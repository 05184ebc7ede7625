"""Tests with Dask clusters, processes of ours, local servers or Prefect."""
