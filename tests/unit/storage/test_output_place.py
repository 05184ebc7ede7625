"""Nothing is written into the stores, results and maps that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.storage.output_place import refuse_inside_results

KINDS = {
    "the Zarr store": ("zarr.json",),
    "the Zarr store of version 2": (".zgroup",),
    "the result": ("item.json", "run.json"),
    "the map": ("map.json", "catalog.json"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("below", ["", "new", "a/b/new"])
def test_places_in_results_are_refused(tmp_path: Path, kind: str, below: str) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    for name in KINDS[kind]:
        (folder / name).touch()
    (tmp_path / "link").symlink_to(folder)
    for place in (folder / below, tmp_path / "link" / below):
        with pytest.raises(InputError, match=r"^--out: got .*; choose another$") as caught:
            refuse_inside_results(place, "--out")
        assert f"{kind.removesuffix(' of version 2')} {folder}" in str(caught.value)


def test_other_places_are_free(tmp_path: Path) -> None:
    for name in ("catalog.json", "item.json", "zarr.json.txt"):
        (tmp_path / name).touch()
    refuse_inside_results(tmp_path / "map", "--out")
    refuse_inside_results(tmp_path / ("x" * 300) / "map", "--out")
