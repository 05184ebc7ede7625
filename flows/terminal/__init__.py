"""Output of commands: progress on standard error, tables on standard output."""
