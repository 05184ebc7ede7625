"""Results as a static STAC catalogue: items, their table, and queries of it."""
