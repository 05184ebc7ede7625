"""What a model is, without torch: configuration, document, weights on disk, measurements."""
