"""Settings of a run: options, credentials, the model by name or folder; checks of the machine and the cluster."""
