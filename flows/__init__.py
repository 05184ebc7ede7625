"""Where scenes meet models: the segmentation as one function, as a Prefect flow and as a command line."""
