"""What tests share: small scenes and models, servers, readers."""
