"""What every room needs: errors, label classes, names of result files, memory and time of the process."""
