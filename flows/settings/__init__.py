"""Settings of a run: options, credentials of object storage, and the model by name or folder."""
