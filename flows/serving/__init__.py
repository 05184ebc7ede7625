"""The web map of a folder of results: page, tiles, pixels, polygons, metrics."""

from seamline.pipeline.common.extras import require_extras

require_extras("seamline serve", "serve")
