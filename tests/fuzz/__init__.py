"""Files that come damaged or hostile: whatever they hold, what opens them works or says one line."""
