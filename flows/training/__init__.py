"""Models: recipes and their labelled images, training, import of foreign networks, evaluation against the truth."""
