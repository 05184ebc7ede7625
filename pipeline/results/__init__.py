"""Published results read again: found, opened, verified, compared with a truth."""
