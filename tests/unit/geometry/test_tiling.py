"""Invariants of the plan's geometry, for any scene and any plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamline.pipeline.common.errors import InputError
from seamline.pipeline.execution.chunk_queue import ChunkQueue
from seamline.pipeline.geometry.taper import make_taper
from seamline.pipeline.geometry.tiling import Index, Tiling
from seamline.pipeline.geometry.votes import FULL_VOTE, argmax_classes, weighted_scores
from seamline.pipeline.geometry.window import mirror_indices


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    divisor = draw(st.sampled_from([1, 2, 4, 16]))
    stride = divisor * draw(st.integers(1, 5))
    overlap = draw(st.sampled_from(range(0, stride + 1, divisor)))
    halo = divisor * draw(st.integers(0, 4))
    height, width = (draw(st.integers(1, 6 * stride)) for _ in range(2))
    return Tiling(height, width, stride + 2 * halo + overlap, halo, overlap, draw(st.integers(1, 4)), divisor)


@given(tilings())
def test_chunks_partition_the_scene(tiling: Tiling) -> None:
    owners = np.zeros((tiling.height, tiling.width), int)
    for chunk in tiling.chunks():
        pixels = tiling.write_window_of(chunk)
        assert pixels.pixel_count > 0
        owners[pixels.to_slices()] += 1
    assert (owners == 1).all()


@given(tilings())
def test_every_tile_belongs_to_one_chunk(tiling: Tiling) -> None:
    tiles = [tile for chunk in tiling.chunks() for tile in tiling.tiles_of(chunk)]
    rows, cols = tiling.tile_grid
    assert sorted(tiles) == [(row, col) for row in range(rows) for col in range(cols)]


@given(tilings())
def test_windows_have_one_shape_and_start_on_the_lattice(tiling: Tiling) -> None:
    for chunk in tiling.chunks():
        reads = tiling.read_window_of(chunk)
        for tile in tiling.tiles_of(chunk):
            window = tiling.window_of(tile)
            assert window.shape == (tiling.window, tiling.window)
            assert (window.row + tiling.halo) % tiling.divisor == (window.col + tiling.halo) % tiling.divisor == 0
            assert window.intersection(reads) == window


@given(tilings())
def test_the_read_ranges_are_what_chunks_read_of_the_mirrored_scene(tiling: Tiling) -> None:
    rows, cols = tiling.list_read_ranges()
    for chunk in tiling.chunks():
        window = tiling.read_window_of(chunk)
        down = mirror_indices(window.row, window.stop_row, tiling.height)
        across = mirror_indices(window.col, window.stop_col, tiling.width)
        assert rows[chunk.row].tolist() == [down.min(), down.max() + 1]
        assert cols[chunk.col].tolist() == [across.min(), across.max() + 1]
    assert (len(rows), len(cols)) == tiling.chunk_grid


@pytest.mark.parametrize("width", [12_288, 100_000])
def test_chunks_are_inferred_row_by_row_in_stripes(width: int) -> None:
    """So few decoded blocks wait for the next row, however wide the scene is."""
    tiling = Tiling(10_000, width, 2048, 0, 0, 1, 16)
    queue = ChunkQueue(tiling, [], [])
    order = list(iter(queue.take_next_to_infer, None))
    assert sorted(order) == list(tiling.chunks())
    places = {chunk: place for place, chunk in enumerate(order)}
    between = [places[below] - places[chunk] for chunk in order if (below := Index(chunk.row + 1, chunk.col)) in places]
    assert set(between) <= set(range(1, 7))


@given(tilings())
def test_tapers_sum_to_one_everywhere(tiling: Tiling) -> None:
    total = np.zeros((tiling.height, tiling.width))
    ones = np.ones((1, tiling.support, tiling.support), np.float32)
    counted = np.zeros((tiling.height, tiling.width), np.int64)
    rows, cols = tiling.tile_grid
    for chunk in tiling.chunks():
        for tile in tiling.tiles_of(chunk):
            support = tiling.support_of(tile).intersection(tiling.scene_window)
            down = make_taper(tiling.support, tiling.overlap, tile.row > 0, tile.row < rows - 1)[: support.height]
            across = make_taper(tiling.support, tiling.overlap, tile.col > 0, tile.col < cols - 1)[: support.width]
            total[support.to_slices()] += down[:, None] * across
            counted[support.to_slices()] += weighted_scores(ones[:, : support.height, : support.width], down, across)[0]
    np.testing.assert_allclose(total, 1.0, atol=1e-12)
    assert np.abs(counted - FULL_VOTE).max() <= 4


@given(st.integers(1, 300))
def test_a_taper_rises_and_falls_without_a_step(overlap: int) -> None:
    weights = make_taper(3 * overlap, overlap, rises=True, falls=True)
    steps = np.diff(np.concatenate([[0.0], weights, [0.0]]))
    assert (steps[: overlap + 1] > 0).all()
    assert (steps[overlap + 1 : 2 * overlap] == 0).all()
    assert (steps[2 * overlap :] < 0).all()
    assert np.abs(steps).max() <= 0.5 * np.pi / overlap + 1e-12  # the steepest part of a raised cosine
    np.testing.assert_allclose(weights, weights[::-1], rtol=0, atol=1e-12)


@given(tilings())
def test_votes_reach_only_the_neighbours_that_are_named(tiling: Tiling) -> None:
    for chunk in tiling.chunks():
        votes_on = tiling.vote_window_of(chunk)
        reached = {
            other
            for other in tiling.chunks()
            if other != chunk and votes_on.intersection(tiling.write_window_of(other)).pixel_count
        }
        assert reached == set(tiling.receivers_of(chunk))
        assert all(chunk in tiling.voters_of(other) for other in reached)


@given(tilings())
def test_store_chunks_have_one_writer(tiling: Tiling) -> None:
    assert tiling.chunk_size % tiling.store_chunk_size == 0
    assert 256 <= tiling.store_chunk_size <= 1024 or not any(tiling.chunk_size % n == 0 for n in range(256, 1025))
    assert tiling.store_chunk_size >= min(tiling.chunk_size, 256)


@given(tilings(), st.randoms(use_true_random=False))
def test_a_queue_infers_and_writes_every_chunk_once_whatever_ends_first(tiling: Tiling, random) -> None:
    chunks = list(tiling.chunks())
    inferred_before = set(random.sample(chunks, random.randint(0, len(chunks))))
    if tiling.overlap:
        written_before = {
            c for c in inferred_before if inferred_before.issuperset(tiling.voters_of(c)) and random.random() < 0.5
        }
    else:
        written_before = inferred_before
    queue = ChunkQueue(tiling, inferred_before, written_before)
    inferred, written, dropped = list(inferred_before), list(written_before), []
    running: list[tuple[str, object]] = []
    while True:
        running += [("write", chunk) for chunk in queue.take_writable()]
        while len(running) < 3 and (chunk := queue.take_next_to_infer()) is not None:
            running.append(("infer", chunk))
        if not running:
            break
        kind, chunk = running.pop(random.randrange(len(running)))
        if kind == "infer":
            inferred.append(chunk)
            queue.mark_inferred(chunk)
        else:
            assert set(tiling.voters_of(chunk)) | {chunk} <= set(inferred)
            assert not ({chunk, *tiling.voters_of(chunk)} & set(dropped))
            written.append(chunk)
            dropped += queue.mark_written(chunk)
    assert sorted(inferred) == chunks
    assert queue.done == len(chunks)
    if tiling.overlap:
        assert sorted(written) == chunks
        spent_before = {c for c in chunks if written_before.issuperset({c, *tiling.receivers_of(c)})}
        assert sorted(dropped) == sorted(set(chunks) - spent_before)


@pytest.mark.parametrize(
    ("window", "halo", "overlap", "message"),
    [
        (500, 96, 0, "off the lattice: window"),
        (512, 92, 8, "off the lattice: halo"),
        (512, 96, 8, "off the lattice: stride"),
        (192, 96, 0, "2·halo \\+ overlap smaller than the window"),
        (256, 128, 16, "take --window"),
        (256, 32, 112, "at most the stride"),
        (0, 0, 0, "--window: got 0"),
        (512, -16, 0, "--halo: got -16"),
    ],
)
def test_off_lattice_plans_are_refused(window: int, halo: int, overlap: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tiling(1000, 1000, window, halo, overlap, 2, 16)


@given(st.integers(-700, 700), st.integers(1, 900), st.integers(1, 60))
def test_mirrored_is_numpys_reflect(start: int, length: int, size: int) -> None:
    before, after = max(0, -start), max(0, start + length - size)
    padded = np.pad(np.arange(size), (before, after), mode="reflect" if size > 1 else "edge")
    first = start + before
    np.testing.assert_array_equal(mirror_indices(start, start + length, size), padded[first : first + length])


def test_winners_are_the_first_of_equals_on_numpy_and_on_torch() -> None:
    torch = pytest.importorskip("torch")
    probabilities = np.array([[[0.25, 0.1]], [[0.5, 0.4]], [[0.25, 0.5]]], np.float32)
    rows, cols = np.ones(1), np.array([1.0, 0.5])
    cast = weighted_scores(probabilities, rows, cols)
    same = weighted_scores(torch.from_numpy(probabilities), rows, cols)
    np.testing.assert_array_equal(cast, same.numpy())
    assert cast.dtype == np.int32
    assert cast[1, 0, 0] == FULL_VOTE // 2
    assert argmax_classes(cast).tolist() == argmax_classes(same).tolist() == [[1, 2]]
    assert argmax_classes(np.zeros((3, 1, 1), np.int32)).tolist() == [[0]]
