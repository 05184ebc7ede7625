"""Which number marks a missing pixel in each chosen band, and numbers that look like it but are not declared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seamline.pipeline.common.errors import BadBlockError, InputError
from seamline.pipeline.geometry.sampling import NumberCounts, spread_blocks
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.raster_io.gdal import (
    OpenRaster,
    describe_error,
    gdal_environment,
    is_remote,
    open_cached_raster,
)
from seamline.pipeline.raster_io.nodata import format_number, is_nodata, round_to_dtype
from seamline.pipeline.raster_io.window_reader import FileWindow, read_own_pixels
from seamline.pipeline.scenes.band_files import BandFile

_FILL_NUMBERS = (-9999.0, -32768.0, 65535.0, -3.4028234663852886e38, 0.0)
"""Numbers that programs write where there is no pixel."""
_SAMPLED_EDGES = 4, 16
"""Blocks of a sample are those of a grid with so many rows and columns, at least and at most: a hole of a few per cent
meets one of them."""
_SAMPLED_PIXELS = 2_000_000
"""Pixels of a sample of a band, if that takes no less blocks than the least."""
_REMOTE_BLOCKS = 5
"""Blocks of a sample that are fetched, each with a request or two: corners and the middle are among them."""
_LEAST_EDGE = 64
"""Edge of a sampled block in pixels, at least."""
_CELL = 4
"""Edge in pixels of the cells that are looked at for constant areas."""
_MOST_CONSTANTS = 8
"""Numbers of constant areas that are looked at; of missing pixels there are one or two."""
_SUSPICIOUS_SHARE = 0.005
"""Share of a sample from which on a fill number that is not declared is told."""
_LEAST_TOLD = 1e-3
"""Share below which only that is told."""
_LEAST_JUMP = 0.2
"""Step at the edge of missing pixels, in units of the distance of all other numbers. Saturated clouds and black shadows
have numbers around them that are near their own."""
_LEAST_COMMON = 0.5
"""Share of a number's pixels that have it in every band, if it means missing."""
_FLAT_SHARE = 0.5
"""Share of constant cells from which on a band is as flat as a drawing, in which constant areas tell nothing."""
_POSSIBLE = -0.45, 100.0
"""Reflectances between which real ones and errors of their correction lie: the least that products hold is −0.2."""


def choose_nodata(
    files: Sequence[BandFile], given: float | str | None, assumed: float | None
) -> tuple[list[float | None], list[str]]:
    """Return the value that marks a missing pixel in each band.

    The user's value takes precedence over that of the file, which takes precedence over the catalogue: it was written
    together with the pixels. In a file, a mask takes precedence over a nodata value. A mask or an alpha band holds
    beside the value that is returned. Values that no pixel can have count only if the user gives them.

    Args:
        files: The chosen bands.
        given: Value given by the user; "none" if no value means missing; None if nothing was given.
        assumed: Value for files that declare nothing; None if there is no such assumption.

    Returns:
        A value for each band (None: no value means missing), and warnings about what was assumed.

    Raises:
        InputError: No pixel can have the value that the user gives.
    """
    result: list[float | None] = []
    warnings: list[str] = []
    undeclared = 0
    for file in files:
        if given is not None:
            value = None if given == "none" else _hold_given(float(given), file, warnings)
        else:
            value = _find_declared(file, warnings)
            if value is None and not file.masked:
                value = _hold_stated("the model assumes", assumed, file, warnings)
                undeclared += value is not None
        result.append(value)
    if undeclared and assumed is not None:
        warnings.append(
            f"{undeclared} of {len(files)} bands declare no nodata: pixels that are {assumed:g} in all of them are"
            " taken as missing; --nodata says otherwise"
        )
    return result, list(dict.fromkeys(warnings))


def _hold_given(given: float, file: BandFile, warnings: list[str]) -> float:
    """Return the user's value as pixels of a band hold it, and warn if it is another than the file's."""
    value = round_to_dtype(given, file.dtype)
    if value is None:
        bounds = None if np.issubdtype(file.dtype, np.floating) else np.iinfo(file.dtype)
        raise InputError(
            f"{file.band.path}: no pixel can be the nodata value",
            got=f"{given:g} for {file.dtype}",
            expected=f"a whole number from {bounds.min} to {bounds.max}" if bounds else f"a number within {file.dtype}",
            fix="give another with --nodata, or say --nodata none",
        )
    if not file.masked and file.nodata is not None and not _is_same(file.nodata, value):
        warnings.append(f"the file says nodata {file.nodata:g}: --nodata {value:g} replaces it, its pixels are data")
    return value


def _find_declared(file: BandFile, warnings: list[str]) -> float | None:
    """Return the value that a file or its catalogue declares for a band; None if neither does."""
    listed = file.band.nodata
    own = None if file.masked else _hold_stated("the file says", file.nodata, file, warnings)
    if own is None:
        listed = _hold_stated("the catalogue says", listed, file, warnings)
        if listed is not None and file.masked:
            warnings.append(
                f"the catalogue says nodata {listed:g} and the file has a mask: pixels that either marks are missing;"
                " --nodata none leaves the mask alone"
            )
        return listed
    if listed is not None and not _is_same(listed, own):
        warnings.append(
            f"the catalogue says nodata {listed:g} and the file nodata {own:g}: the file is followed;"
            " --nodata says otherwise"
        )
    return own


def _hold_stated(who: str, value: float | None, file: BandFile, warnings: list[str]) -> float | None:
    """Return a stated value as pixels of a band hold it; None, with a warning, if none can."""
    held = None if value is None else round_to_dtype(value, file.dtype)
    if value is not None and held is None:
        warnings.append(f"{who} nodata {value:g}, which no pixel of {file.dtype} can be: it is ignored")
    return held


def sample_valid_pixels(
    files: Sequence[BandFile], nodata: Sequence[float | None], *, is_settled: bool
) -> tuple[list[BandSample], list[str]]:
    """Read a sample of the valid pixels of each band, and look for missing pixels that nothing declares.

    Args:
        files: The chosen bands.
        nodata: Value that marks a missing pixel in each band.
        is_settled: Whether the user has said which value it is, so that nothing is told of others.

    Returns:
        A sample of each band, without numbers that look like missing pixels; and warnings that tell the share of such
        numbers.
    """
    samples = [BandSample(file, _read_blocks(file, value)) for file, value in zip(files, nodata, strict=True)]
    warnings = _tell_fills(samples)
    missing = [sample.missing for sample in samples]
    if max(missing) >= _SUSPICIOUS_SHARE and min(missing) < max(missing) / 2:
        names = _join_bands(sample for sample in samples if sample.missing >= _SUSPICIOUS_SHARE)
        marks = "masked, NaN or nodata" if any(file.masked for file in files) else "NaN or nodata"
        warnings.append(
            f"about {max(missing):.1%} of the pixels of {names} are {marks}, but not in every band: a pixel"
            " with data in any band is segmented"
        )
    for sample in samples:
        if not is_settled:
            sample.untold = sample.present
        for number in _FILL_NUMBERS:
            sample.drop(number)
    return samples, [] if is_settled else warnings


def tell_impossible_values(
    samples: Sequence[BandSample], to_values: Sequence[Callable[[NDArray[Any]], NDArray[np.float64]]]
) -> list[str]:
    """Return a warning if pixels of a sample have values that no reflectance has, be they ever so few.

    Args:
        samples: A sample of each band. Numbers that a warning has named already are left out.
        to_values: Functions that return the reflectances that numbers of each band stand for.
    """
    found = {
        sample: hit
        for sample, apply in zip(samples, to_values, strict=True)
        if (hit := sample.find_impossible(apply)) is not None
    }
    if not found:
        return []
    worst = max(found, key=lambda sample: found[sample][1])
    number, share = found[worst]
    told, advice = _advise(number, [worst])
    much = f"about {share:.1%}" if share >= _LEAST_TOLD else f"less than {_LEAST_TOLD:.1%}"
    where = "every band" if len(found) == len(samples) else _join_bands(found)
    return [f"{much} of the pixels of {where} have values that no reflectance has, such as number {told}, {advice}"]


class BandSample:
    """Blocks of a band, of which pixels are taken away that count as missing.

    Attributes:
        file: The band and what its file declares.
        blocks: Pixels of the blocks, shape (height, width).
        present: True where a pixel has a number that was not taken away, of each block.
        untold: The same before numbers were taken away of which nothing was told.
        counts: The numbers of the pixels that are left.
        missing: Share of pixels that have no number to begin with: masked, NaN and nodata.
        constants: The most common numbers of cells that hold one number only → share of such cells.
        flatness: Share of all cells that hold one number only.
        limits: The least and the largest number to begin with.
    """

    def __init__(self, file: BandFile, parts: Sequence[FileWindow]) -> None:
        self.file, self.blocks = file, [part.pixels[0] for part in parts]
        self.present = self.untold = [part.has_data[0] for part in parts]
        self.missing = 1 - _measure_share(self.present)
        self.constants, self.flatness = self._list_constants()
        self.counts = NumberCounts.count(self._select(self.present))
        numbers = self.counts.numbers
        self.limits = (float(numbers[0]), float(numbers[-1])) if numbers.size else (0.0, 0.0)

    def _select(self, masks: Sequence[NDArray[np.bool_]]) -> list[NDArray[Any]]:
        """Return the marked pixels of each block."""
        return [block if there.all() else block[there] for block, there in zip(self.blocks, masks, strict=True)]

    def drop(self, number: float) -> None:
        """Take a number away, unless it is all there is, to be judged as data."""
        left = ~is_nodata(self.counts.numbers, number)
        if left.any() and not left.all():
            self.counts = self.counts.select(left)
            self.present = [there & ~own for there, own in zip(self.present, self.find(number), strict=True)]

    def measure(self, number: float) -> float:
        """Return the share of all pixels of the blocks that have a number and were not taken away."""
        pixels: int = sum(block.size for block in self.blocks)
        return self.counts.select(is_nodata(self.counts.numbers, number)).size / max(pixels, 1)

    def find(self, number: float) -> list[NDArray[np.bool_]]:
        """Return where the pixels of each block have a number."""
        return [there & is_nodata(block, number) for block, there in zip(self.blocks, self.present, strict=True)]

    def find_impossible(self, to_values: Callable[[NDArray[Any]], NDArray[np.float64]]) -> tuple[float, float] | None:
        """Return the most common number that stands for no reflectance, and the share of pixels with such numbers."""
        low, high = _POSSIBLE
        ends = to_values(np.array(self.limits))
        if low <= ends.min() and ends.max() <= high:
            return None
        untold = NumberCounts.count(self._select(self.untold))
        values = to_values(untold.numbers)
        found = untold.select((values < low) | (values > high))
        return (float(found.numbers[found.counts.argmax()]), found.size / untold.size) if found.size else None

    def _list_constants(self) -> tuple[dict[float, float], float]:
        """Return the most common numbers of cells that hold one number only.

        Returns:
            Number → share of the cells that hold it alone; and the share of all cells of one number.
        """
        flat: list[NDArray[Any]] = []
        cells = 0
        for block, there in zip(self.blocks, self.present, strict=True):
            whole = _reduce_cells(there, np.logical_and)
            low, high = _reduce_cells(block, np.minimum), _reduce_cells(block, np.maximum)
            flat.append(low[whole & (low == high)])
            cells += whole.size
        numbers, counts = np.unique(np.concatenate(flat), return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_MOST_CONSTANTS]
        shares = {float(numbers[at]): float(counts[at]) / cells for at in most}
        return shares, float(counts.sum()) / max(cells, 1)

    def stands_out(self, number: float) -> bool:
        """Return whether a number ends in a step: those beside it are no nearer to it than all others."""
        steps: list[NDArray[np.float64]] = []
        for block, there in zip(self.blocks, self.present, strict=True):
            fill = is_nodata(block, number)
            for first, second in (((slice(1, None),), (slice(-1),)), ((..., slice(1, None)), (..., slice(-1)))):
                for one, other in ((first, second), (second, first)):
                    edge = fill[one] & there[other] & ~fill[other]
                    steps.append(np.abs(block[other][edge].astype(np.float64) - number))
        rest = self.counts.select(~is_nodata(self.counts.numbers, number))
        spread = np.abs(np.repeat(rest.numbers, rest.counts).astype(np.float64) - number)
        found = np.concatenate(steps)
        return spread.size > 0 and (found.size == 0 or bool(np.median(found) >= _LEAST_JUMP * np.median(spread)))

    def is_drawn(self, number: float) -> bool:
        """Return whether a number is one of the few of a drawing, and not beyond all others."""
        if int((~is_nodata(self.counts.numbers, number)).sum()) <= 1:
            return True
        share = self.constants.get(number, 0.0)
        others = (self.flatness - share) / max(1 - share, 1e-9)
        return others >= _FLAT_SHARE and self.limits[0] < number < self.limits[1]


def _tell_fills(samples: Sequence[BandSample]) -> list[str]:
    """Return warnings of numbers that look like missing pixels and are not declared, and take them away.

    They are those that programs write, wherever they are; and numbers of areas that are exactly constant and end in a
    step, if all bands share them or no surface has them.
    """
    kept = max(1 - min(sample.missing for sample in samples), 1e-9)
    whole = "pixels" if kept == 1 else "pixels with data"
    large = [
        {number for number, share in sample.constants.items() if share >= _SUSPICIOUS_SHARE / 2 * kept}
        for sample in samples
    ]
    found = set.intersection(*large) | {number for own in large for number in own if number < 0}
    warnings: list[str] = []
    for number in (*_FILL_NUMBERS, *sorted(found.difference(_FILL_NUMBERS))):
        shares = [sample.measure(number) / kept for sample in samples]
        suspicious = [
            sample
            for sample, share in zip(samples, shares, strict=True)
            if share >= _SUSPICIOUS_SHARE
            and (number in _FILL_NUMBERS or (number in sample.constants and not sample.is_drawn(number)))
            and sample.stands_out(number)
        ]
        if not suspicious:
            continue
        common = _measure_common([sample.find(number) for sample in samples]) / kept
        told, advice = _advise(number, suspicious)
        if len(suspicious) == len(samples) and common >= max(_SUSPICIOUS_SHARE, _LEAST_COMMON * max(shares)):
            warnings.append(f"about {common:.1%} of the {whole} are {told} in every band, {advice}")
        elif number < 0:
            share = max(sample.measure(number) for sample in suspicious) / kept
            warnings.append(f"about {share:.1%} of the {whole} of {_join_bands(suspicious)} are {told}, {advice}")
        else:
            continue
        for sample in suspicious:
            sample.drop(number)
    return warnings


def _advise(number: float, samples: Sequence[BandSample]) -> tuple[str, str]:
    """Return a number that is found in samples as text, and what follows from that."""
    told = format_number(number, samples[0].file.dtype)
    is_masked = any(sample.file.masked for sample in samples)
    why = "the mask leaves them" if is_masked else "nothing says that they are missing"
    return told, f"and {why}: they are taken as data; --nodata {told} says otherwise"


def _measure_share(masks: Sequence[NDArray[np.bool_]]) -> float:
    return sum(map(np.count_nonzero, masks)) / max(sum(mask.size for mask in masks), 1)


def _measure_common(bands: Sequence[list[NDArray[np.bool_]]]) -> float:
    """Return the share of pixels that are marked in every band; the least share of bands of different blocks."""
    if len({tuple(mask.shape for mask in masks) for masks in bands}) > 1:
        return min(map(_measure_share, bands))
    return _measure_share([np.logical_and.reduce(masks) for masks in zip(*bands, strict=True)])


def _reduce_cells(block: NDArray[Any], combine: np.ufunc) -> NDArray[Any]:
    """Return one number for each whole cell of a block, shape (rows, columns)."""
    rows, cols = (edge // _CELL * _CELL for edge in block.shape)
    # Slices of the block: numpy takes thirty times as long for many short axes.
    of_rows = reduce(combine, (block[start:rows:_CELL, :cols] for start in range(_CELL)))
    return np.asarray(reduce(combine, (of_rows[:, start::_CELL] for start in range(_CELL))))


def _join_bands(samples: Iterable[BandSample]) -> str:
    return ", ".join(str(sample.file.band) for sample in samples)


def _choose_blocks(raster: OpenRaster, index: int) -> list[Window]:
    """Return the blocks of a band that are looked at."""
    shape = raster.grid.shape[0], raster.grid.shape[1]
    height, width = (edge * -(-_LEAST_EDGE // edge) for edge in raster.block_shapes[index - 1])
    if is_remote(raster.path):
        return spread_blocks(shape, (height, width), _REMOTE_BLOCKS)
    least, most = _SAMPLED_EDGES
    edge = min(max(math.isqrt(_SAMPLED_PIXELS // (height * width)), least), most)
    rows, cols = spread_blocks((shape[0], 1), (height, 1), edge), spread_blocks((1, shape[1]), (1, width), edge)
    return [Window(row.row, col.col, row.height, col.width) for row in rows for col in cols]


def _read_blocks(file: BandFile, nodata: float | None) -> list[FileWindow]:
    """Read blocks that are spread over a band; those that cannot be read are left out if others can."""
    path, index = file.band.path, file.band.index
    blocks: list[FileWindow] = []
    failure: BadBlockError | None = None
    with gdal_environment(path):
        raster = open_cached_raster(path)
        for block in _choose_blocks(raster, index):
            try:
                blocks.append(read_own_pixels(raster, [index], nodata, block, keep_going=False))
            except BadBlockError as error:  # reported with its place when the scene is read
                failure = error
    if not blocks:
        raise InputError(
            f"{path}: band {index} cannot be read",
            got=describe_error(failure) if failure else "no pixels",
            expected="pixels that GDAL reads",
            fix="check the file and those that it refers to",
        ) from failure
    return blocks


def _is_same(first: float, second: float) -> bool:
    return bool(is_nodata(np.array([first]), second)[0])
