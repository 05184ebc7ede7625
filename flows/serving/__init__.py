"""A folder of results as a map in the browser: ``seamline serve``."""
