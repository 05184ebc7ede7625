"""Where bytes lie: files that appear whole, JSON over HTTP, folders of objects in S3."""
