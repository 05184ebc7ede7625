"""From the votes of published scenes to the files of a map, chunk by chunk."""
