"""What every room needs: errors, extras, label classes, names of result files, memory and time of the process."""
