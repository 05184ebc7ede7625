"""Models from labelled images: recipes, training, import, evaluation."""
