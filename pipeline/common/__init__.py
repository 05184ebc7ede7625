"""What every room needs: errors, label classes, names of result files, memory of the process."""
