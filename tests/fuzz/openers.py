"""What opens a file of each kind: the functions that commands and flows call, up to where the work would begin."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from seamline.flows.collection.discovery import discover
from seamline.flows.collection.scene_ref import Discovery
from seamline.flows.collection.scene_sources import Inbox, Manifest, StacCatalog, StacSearch
from seamline.flows.runs.scene_job import describe_raster, open_input
from seamline.flows.serving.results import ServedResults
from seamline.flows.settings.model_folder import Model, open_model
from seamline.flows.settings.options import SegmentOptions
from seamline.flows.terminal.tables import show_items
from seamline.flows.training.evaluation import evaluate_segmentation
from seamline.flows.training.recipe_documents import read_recipe
from seamline.model.engines.runtime import Runtime
from seamline.model.importers.import_model import read_network
from seamline.model.spec.config import EngineSettings, Radiometry
from seamline.pipeline.analysis.coverage import BandCoverage
from seamline.pipeline.analysis.zone_file import read_zones
from seamline.pipeline.analysis.zone_place import ZonePlacer, measure_zone
from seamline.pipeline.common.errors import SeamlineError
from seamline.pipeline.geometry.window import Window
from seamline.pipeline.planning.tilings import list_candidate_tilings
from seamline.pipeline.results.dataset import open_result
from seamline.pipeline.results.truth import Truth
from seamline.pipeline.results.verify import verify
from seamline.pipeline.scenes.scene import read_block
from seamline.pipeline.stac.catalog import update_catalog
from seamline.pipeline.stac.query import query_items

_WINDOW = 512
_FEW_BANDS = 2
_GRID = GeoBox((96, 96), Affine(30, 0, 500_000, 0, -30, 6_000_000), "EPSG:32620")


def open_scene_file(path: Path, aoi: Path | None = None) -> list[str]:
    """What ``segment`` and ``plan`` do before a cluster starts, and a worker with a window."""
    model, options = _open_embedded_model(), SegmentOptions(aoi=aoi)
    scene = open_input(str(path), model, options)
    list_candidate_tilings(describe_raster(scene, model, options), options.plan_options, model.reach)
    scene.compute_digest()
    height, width = scene.grid.shape
    read_block(scene, Window(0, 0, min(height, _WINDOW), min(width, _WINDOW)))
    return [*scene.warnings, scene.radiometry, scene.id]


def open_beside(path: Path) -> list[str]:
    return open_scene_file(path.parent / "scene.tif")


def open_product(path: Path) -> list[str]:
    """The folder of a product, and its metadata file by name."""
    said = _try_each(lambda: open_scene_file(path.parent))
    return said if path.suffix == ".txt" else said + _try_each(lambda: open_scene_file(path))


def look_into_inbox(path: Path) -> list[str]:
    """What is dropped into an inbox: it may not lead outside."""
    folder = next(parent for parent in path.parents if parent.name == "inbox")
    discovery = discover(Inbox(folder=folder, settle=0))
    said = _list_reasons(discovery)
    for scene in discovery.scenes:
        said += _try_each(lambda source=scene.source: open_scene_file(Path(source)))
    return said


def open_with_area(path: Path) -> list[str]:
    return open_scene_file(path.parent / "scene.tif", aoi=_get_main_file(path))


def place_zones(path: Path) -> list[str]:
    """What ``zones`` does with polygons, until it reads labels."""
    zones = read_zones(_get_main_file(path), "class" if path.stat().st_size % 2 else "")
    placer = ZonePlacer(_GRID, zones.crs)
    for number in placer.list_near(zones.geometries):
        measure_zone(zones.geometries[number], zones.crs)
        if (edges := placer.place(zones.geometries[number], zones.names[number])) is not None:
            BandCoverage(edges, (0, _GRID.height), _GRID.width).read(0, _GRID.width)
    return [str(name) for name in zones.names]


def walk_catalog(path: Path) -> list[str]:
    box = (-180.0, -90.0, 180.0, 90.0)
    root = path if path.name == "catalog.json" else path.parents[1] / "catalog.json"
    source = StacCatalog(href=str(root))
    narrow = source.model_copy(update={"bbox": box, "datetime": "2024"})
    return [text for source in (source, narrow) for text in _list_reasons(discover(source))]


def search_api(path: Path) -> list[str]:
    server = (path.parent / "address.txt").read_text()
    return _list_reasons(discover(StacSearch(url=f"{server}/landing.json", collections=("s2",))))


def read_manifest(path: Path) -> list[str]:
    return _list_reasons(discover(Manifest(path=path)))


def load_model(path: Path) -> list[str]:
    """What a run does with a model folder, until a worker has inferred a window."""
    if path.name != "model.json":
        _correct_checksum(path)
    model = open_model(path.parent)
    bands = len(model.spec.bands)
    radiometry = Radiometry((1.0,) * bands, (0.0,) * bands, (None,) * bands)
    edge = 2 * max(model.reach.divisor, model.reach.least_halo + model.reach.divisor)
    if edge * edge * bands < 2**22:
        runtime = Runtime(model.spec, model.folder, EngineSettings(), radiometry, model.reach.least_halo)
        window = torch.zeros(bands, edge, edge).numpy()
        runtime.predict([window], [window[0] == 0])
    return [json.dumps(model.spec.summarize())[:1000], model.card.description[:1000]]


def import_network(path: Path) -> list[str]:
    return [read_network(path, _FEW_BANDS).architecture]


def load_recipe(path: Path) -> list[str]:
    """What ``train`` does before the first step."""
    images = read_recipe(path).load(path.parent)
    return [image.name for image in (*images.training, *images.validation)]


def compare_with_labels(path: Path) -> list[str]:
    """``evaluate``, which reads labels as ``train`` does."""
    path = _get_main_file(path)
    said = []
    for truth in (Truth(path), Truth(path, "class"), Truth(path, "", {"1": 1})):
        said += _try_each(lambda truth=truth: _evaluate(path.parent / "prediction.tif", truth))
    return said


def open_results(path: Path) -> list[str]:
    """Every command that reads a folder of results."""
    out = next(parent for parent in path.parents if (parent / "one").is_dir())
    said: list[str] = []
    for act in (
        lambda: list(open_result(out, "one").attrs["title"]),
        lambda: [f"{finding.scene} {finding.subject} {finding.problem}" for finding in verify(out)],
        lambda: [str(scene["id"]) for scene in ServedResults.from_folder(out).summarize_scenes().scenes],
        lambda: _evaluate(out / "one", Truth(out / "two" / "segmentation.tif")),
        lambda: [str(update_catalog(out))],
        lambda: _query(out) if path.suffix in (".json", ".parquet") else [],
    ):
        said += _try_each(act)
    return said


def _query(out: Path) -> list[str]:
    with redirect_stdout(io.StringIO()) as printed:
        show_items(query_items(out))
    return printed.getvalue().splitlines()


def _evaluate(prediction: Path, truth: Truth) -> list[str]:
    return [row.name for row in evaluate_segmentation(prediction, truth).classes]


def _try_each(act) -> list[str]:
    """Return what an action says, or the line of its error: another action may follow."""
    try:
        return list(act())
    except SeamlineError as error:
        return [str(error)]


def _list_reasons(discovery: Discovery) -> list[str]:
    return [text for rejected in discovery.rejected for text in (rejected.name, rejected.reason)]


def _get_main_file(path: Path) -> Path:
    """Return the file that is named on the command line, of which a damaged one may be a part."""
    main = {".shx": ".shp", ".dbf": ".shp", ".prj": ".shp", ".cpg": ".shp", ".xsd": ".gml"}
    return path.with_suffix(main.get(path.suffix, path.suffix))


def _correct_checksum(weights: Path) -> None:
    """Write the digest of weights into the document beside them, as somebody hostile would."""
    document = json.loads((weights.parent / "model.json").read_text())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    document["assets"]["model"]["file:checksum"] = f"1220{digest}"
    (weights.parent / "model.json").write_text(json.dumps(document))


@cache
def _open_embedded_model() -> Model:
    return open_model("land-water-cloud")
