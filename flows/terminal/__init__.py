"""What a terminal shows: progress, tables, JSON, errors of usage; and how signals end a command."""
