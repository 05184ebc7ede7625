"""Mutations that failed once; each is tried again with all others."""

from __future__ import annotations

REGRESSIONS: tuple[tuple[str, int], ...] = (
    *(("vrt", number) for number in (8, 11, 1_000_170, 1_000_280)),
    ("sidecar", 1_000_032),
    *(("item", number) for number in (4, 1_000_064, 1_000_092, 1_000_170, 1_000_238)),
    *(("inbox", number) for number in (1_000_013, 1_000_033, 1_000_060, 1_000_202, 1_000_247)),
    *(("catalog", number) for number in (1_000_008, 1_000_016, 1_000_025, 1_000_072)),
    *(("search", number) for number in (1_000_018, 1_000_099, 1_000_108)),
    *(("manifest", number) for number in (1, 2_000_002, 2_000_003, 2_000_015, 17_000_294)),
    *(("aoi", number) for number in (5, 6, 2_000_024)),
    ("aoi", 6_000_101),
    ("zones", 38),
    *(("network", number) for number in (6_000_018, 17_000_077, 17_000_158, 17_000_237)),
    ("recipe", 17_000_733),
    ("result", 17_000_048),
    *(("labels", number) for number in (5, 2_000_011, 2_000_030, 19_000_027)),
)
