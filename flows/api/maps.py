"""Fuse segmented scenes to a map from Python."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from seamline.flows.maps.make_map import make_map
from seamline.flows.maps.observer import MapObserver, MapResult
from seamline.flows.maps.options import MosaicOptions
from seamline.flows.settings.credentials import give_credentials, use_credentials

if TYPE_CHECKING:
    from distributed import Client


def mosaic(
    results: str | Path,
    out: str | Path,
    options: MosaicOptions,
    *,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MapResult:
    """Fuse the published scenes of a catalogue to one map, or bring it up to date, as ``seamline mosaic`` does.

    Args:
        results: folder that scenes were segmented to with ``probabilities`` among the outputs, or ``s3://bucket/prefix``.
        out: the map's folder, which is named as the map.
        options: what the map is: ``MosaicOptions(crs="EPSG:32632", resolution=10)``.
        client: client of a Dask cluster that is there. Default: this process; ``options.workers`` starts processes.
        progress: is called with the number of chunks that are done, and of all that are to be computed.

    Returns:
        The map's folder and record, and whether anything was computed. ``open_result(result.folder, "<map>-<period>")``
        opens the rasters of a period.

    Raises:
        InputError: there is no such map to be made; nothing was computed.
        SeamlineError: the run failed; what was done is kept and the same call goes on.
    """
    use_credentials(options.credentials)
    observer = MapObserver(progress=progress or MapObserver().progress)
    if client is not None:
        give_credentials(client, options.credentials)
        return make_map(results, out, options, observer, lambda *_: nullcontext(client))
    if options.cluster == "local" and options.workers is None:
        options = options.model_copy(update={"workers": 0})
    return make_map(results, out, options, observer)
