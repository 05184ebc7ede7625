"""What a terminal shows of a run: progress and tables."""
