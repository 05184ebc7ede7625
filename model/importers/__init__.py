"""Networks from elsewhere become model folders; their reach is measured."""
