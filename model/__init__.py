"""Networks: their specification, architectures, engines, importers and training; no CRS, no Dask."""
