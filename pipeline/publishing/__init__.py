"""From a run whose chunks are all written to results under their final names, on disk or in object storage."""
