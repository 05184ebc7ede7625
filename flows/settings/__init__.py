"""What a user sets: options, credentials, the model by name or folder."""
