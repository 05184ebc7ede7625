"""Running a network: engines, the runtime that predicts windows, and the measurement that chooses settings."""
