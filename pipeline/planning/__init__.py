"""How a scene is cut into windows and chunks, chosen from what was measured."""
