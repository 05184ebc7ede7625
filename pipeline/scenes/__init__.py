"""What is segmented: a scene opened from files, folders or STAC items, its bands matched and read."""
