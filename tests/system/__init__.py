"""Tests with several services or other programs: QGIS, DuckDB, Chromium, SLURM, `seamline up`."""
