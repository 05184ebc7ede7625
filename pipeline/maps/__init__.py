"""The files of a map: written, looked after, verified; on disk and in object storage."""
