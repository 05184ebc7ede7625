"""The digest of a raster's content: one rule for files of any size."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from seamline.pipeline.raster_io import content
from seamline.pipeline.raster_io.content import hash_content
from tests.support.small_rasters import make_noise, write_geotiff


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    return write_geotiff(tmp_path / "a.tif", make_noise(1, 100, 100), names=("b1",))


def test_a_file_of_up_to_a_part_has_the_digest_that_results_already_have(raster: Path) -> None:
    whole = hashlib.sha256(hashlib.sha256(raster.read_bytes()).digest()).hexdigest()
    assert hash_content(str(raster), [1]) == whole


def test_a_larger_file_is_read_whole_in_parts(raster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, part = raster.read_bytes(), 6_000
    monkeypatch.setattr(content, "_PART_BYTES", part)
    monkeypatch.setattr(content, "_BUFFER_BYTES", 1_000)
    parts = [data[start : start + part] for start in range(0, len(data), part)]
    expected = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in parts)).hexdigest()
    assert len(parts) > 3 and hash_content(str(raster), [1]) == expected
    os.utime(raster, (0, 0))
    assert hash_content(str(raster), [1]) == expected  # times are no content
    for place in range(len(data) // 2, len(data), part):
        raster.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert hash_content(str(raster), [1]) != expected
