"""What people look at: the preview, the report page, the picture of a plan."""
