"""Make the pictures of the documentation from real runs: ``python docs/gallery.py --data DATA``.

``DATA`` (default: ``$SEAMLINE_DATA``) is a folder of public scenes; docs/gallery.md says whose they are and under which
licence. Without it only the pictures of simulated scenes are made. ``--only NAME`` makes one picture.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
import rioxarray
import xarray as xr
from odc.geo.geobox import GeoBox
from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright
from pyproj import Transformer

import seamline
from seamline.pipeline.synthetic.region import Region, RegionScene
from seamline.pipeline.synthetic.simulation_files import write_simulation

_DOCS = Path(__file__).parent
_MODEL = "land-water-cloud"
_MOST_BYTES, _MOST_BYTES_OF_GALLERY = 150_000, 90_000
_LANDSAT = {
    "manaus-2023": "xlandsat/LC09_L2SP_231062_20230723_20230802_02_T1_6b.tif",
    "liverpool-2020": "xlandsat/LC08_L2SP_204023_20200927_20201006_02_T1_6b.tif",
    "momotombo-2015": "xlandsat/LC08_L2SP_017051_20151205_20200908_02_T1_6b.tif",
    "brumadinho-2019": "xlandsat/LC08_L2SP_218074_20190114_20200829_02_T1_6b.tif",
}
_NODATA = 255
_LEVELS = (0.5, 0.8, 1.15, 1.5, 1.25, 0.9)
"""Size of the lake of the simulated reservoir in each month, from May on."""
_DEEP_WATER = np.array([0.045, 0.05, 0.035, 0.02, 0.01, 0.008], np.float32)
_PHONE = (420, 900)


@dataclass(frozen=True)
class Studio:
    """Where the scenes are, and where work is done.

    Attributes:
        data: Folder of public scenes.
        work: Folder of scenes and results.
    """

    data: Path
    work: Path

    def segment(self, source: Path, name: str, **options: object) -> Path:
        """Return the folder of a scene's results, which has the name."""
        chosen = seamline.SegmentOptions(**options)  # type: ignore[arg-type]
        return Path(seamline.segment(self._copy(source, name), _MODEL, self.work / "results", chosen).folder)

    def _copy(self, source: Path, name: str) -> Path:
        """Return a scene under another name, with the day that the name of its file tells."""
        copy = self.work / "scenes" / (name if source.is_dir() else f"{name}.tif")
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
            return copy
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(source.read_bytes())
        if day := re.search(r"_(\d{4})(\d\d)(\d\d)_", source.name):
            with rasterio.open(copy, "r+") as file:
                file.update_tags(ACQUISITION_DATE="-".join(day.groups()))
        return copy

    def simulate(self, name: str, size: int, seed: int = 0) -> Path:
        """Return a simulated scene; its truth lies beside it."""
        path = self.work / f"{name}.tif"
        run("simulate", "--size", size, size, "--seed", seed, "--out", path)
        return path


def run(*words: object) -> None:
    """Run a command of Seamline."""
    subprocess.run([sys.executable, "-m", "seamline", *map(str, words)], check=True)


def draw_simulated(studio: Studio) -> Image.Image:
    """Draw a simulated scene and its segmentation."""
    return Image.open(studio.segment(studio.simulate("scene", 4096), "scene") / "preview.png")


def draw_confusion(studio: Studio) -> Image.Image:
    """Draw the confusion matrix of a simulated scene."""
    scene = studio.simulate("other", 1024, seed=7)
    folder, picture = studio.segment(scene, "other"), studio.work / "confusion.png"
    run("evaluate", folder, scene.with_name("other_truth.tif"), "--picture", picture)
    return Image.open(picture)


def draw_preview(source: str, name: str) -> Callable[[Studio], Image.Image]:
    """Return a function that draws a scene of the folder of data and its segmentation."""
    return lambda studio: Image.open(studio.segment(studio.data / source, name) / "preview.png")


def draw_plan(studio: Studio) -> Image.Image:
    """Draw the plan of a scene, with windows small enough to be seen."""
    picture = studio.work / "plan.png"
    scene = studio.data / _LANDSAT["manaus-2023"]
    run("plan", scene, "--model", _MODEL, "--window", 448, "--picture", picture)
    return Image.open(picture)


def draw_seams(studio: Studio) -> Image.Image:
    """Draw labels of tiles that see nothing beyond their edges, Seamline's, and where the first ones differ."""
    scene = rioxarray.open_rasterio(studio.data / _LANDSAT["manaus-2023"], mask_and_scale=True)
    assert isinstance(scene, xr.DataArray)
    scene = scene[:, 168:424, 240:496].load()
    whole = _predict(scene)
    naive = np.full_like(whole, _NODATA)
    edge = 64
    for row in range(0, whole.shape[0], edge):
        for col in range(0, whole.shape[1], edge):
            naive[row : row + edge, col : col + edge] = _predict(scene[:, row : row + edge, col : col + edge])
    chunked = _predict(scene.chunk(x=edge, y=edge))
    panels = [_color(naive, whole), _color(chunked, whole)]
    texts = [
        f"each tile alone: {np.mean(naive != whole):.2%} of the labels differ",
        f"Seamline, the same tiles: {int((chunked != whole).sum())} labels differ",
    ]
    return _place_side_by_side(panels, texts)


def _predict(scene: xr.DataArray) -> np.ndarray:
    named = scene.assign_coords(band=["blue", "green", "red", "nir", "swir16", "swir22"])
    options = seamline.SegmentOptions(precision="fp32", engine="torch")
    return np.asarray(seamline.predict(named, _MODEL, options=options).segmentation)


def _color(labels: np.ndarray, truth: np.ndarray) -> Image.Image:
    """Return the labels in pale colours of their classes, and in red where they are not the true ones."""
    palette = np.full((256, 3), 235, np.uint8)
    for label, entry in enumerate(seamline.load_model(_MODEL).spec.classes):
        palette[label] = [128 + value // 2 for value in entry.color]
    picture = palette[labels]
    picture[labels != truth] = (214, 30, 40)
    large = picture.repeat(2, axis=0).repeat(2, axis=1)
    return Image.fromarray(large)


def _place_side_by_side(panels: list[Image.Image], texts: list[str]) -> Image.Image:
    width, height = panels[0].size
    page = Image.new("RGB", (len(panels) * (width + 16) - 16, height + 28), "white")
    draw = ImageDraw.Draw(page)
    for number, (panel, text) in enumerate(zip(panels, texts, strict=True)):
        page.paste(panel, (number * (width + 16), 28))
        draw.text((number * (width + 16), 4), text, fill="#333333", font_size=17)
    return page


@contextmanager
def open_map(studio: Studio, width: int, height: int) -> Iterator[Page]:
    """Yield the map of four scenes, in a window of Chromium of so many pixels."""
    outputs = ("cog", "zarr", "polygons", "probabilities", "confidence")
    for name, source in _LANDSAT.items():
        studio.segment(studio.data / source, name, outputs=outputs)
    with open_page(studio.work / "results", width, height) as page:
        yield page


@contextmanager
def open_page(results: Path, width: int, height: int) -> Iterator[Page]:
    """Yield the page of a folder of results, in a window of Chromium of so many pixels."""
    command = [sys.executable, "-m", "seamline", "serve", str(results), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = re.findall(r"http://\S+", server.stdout.readline())[0]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait()


def photograph(page: Page) -> Image.Image:
    """Return what the page shows when the map is drawn."""
    page.wait_for_timeout(4000)
    return Image.open(io.BytesIO(page.screenshot()))


def shrink(picture: Image.Image, width: int, colors: int) -> Image.Image:
    """Return a picture of so many pixels and colours, with letters that can be read and little to compress."""
    size = width, round(picture.height * width / picture.width)
    small = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    return small.quantize(colors, kmeans=1, dither=Image.Dither.NONE).convert("RGB")


def draw_map(studio: Studio) -> Image.Image:
    """Photograph the map on a large screen, with the answer to a click."""
    with open_map(studio, 1240, 720) as page:
        page.get_by_text("manaus-2023").first.click()
        page.get_by_label("Outlines of polygons").check()
        page.wait_for_timeout(3000)
        page.mouse.move(800, 430)
        page.mouse.wheel(0, -250)
        page.wait_for_timeout(5000)
        page.mouse.click(720, 430)
        return photograph(page)


def draw_list_on_phone(studio: Studio) -> Image.Image:
    """Photograph the list of scenes, sorted by a class, on a phone."""
    with open_map(studio, *_PHONE) as page:
        page.get_by_label("Sort").select_option("most:water")
        page.get_by_text("liverpool-2020").first.click()
        page.get_by_role("button", name="Scenes", exact=True).click()
        return photograph(page)


def draw_scene_on_phone(studio: Studio) -> Image.Image:
    """Photograph a scene, its legend and the answer to a tap, on a phone."""
    with open_map(studio, *_PHONE) as page:
        page.get_by_text("manaus-2023").first.click()
        page.wait_for_timeout(3000)
        page.mouse.click(200, 280)
        return photograph(page)


@dataclass(frozen=True)
class _Reservoir(Region):
    """A simulated region with a lake that has another size at each date.

    Attributes:
        level: Mean radius of the lake in km.
    """

    level: float = 0.0

    def sample_ground(self, grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
        """Return reflectance and share of water at the centres of a grid's pixels, as those of ``Region``."""
        bands, water = super().sample_ground(grid)
        rows, cols = np.indices(grid.shape) + 0.5
        x, y = grid.transform @ (cols, rows)
        x, y = Transformer.from_crs(str(grid.crs), "EPSG:32632", always_xy=True).transform(x, y)
        east, north = (x - 723_300) / 1000, (y - 5_320_900) / 1000
        angle = np.arctan2(north, east)
        bays = 1 + 0.22 * np.sin(3 * angle + 1) + 0.12 * np.sin(7 * angle) + 0.06 * np.sin(13 * angle + 2)
        lake = np.clip((self.level - np.hypot(east, 1.3 * north) / bays) / 0.04 + 0.5, 0, 1).astype(np.float32)
        return bands * (1 - lake) + _DEEP_WATER[:, None, None] * lake, np.maximum(water, lake)


def make_monthly_map(studio: Studio) -> Path:
    """Return results of two simulated scenes of each month, with a map of each month and one of all dates."""
    results = studio.work / "monthly-results"
    if results.exists():
        return results
    names = []
    for date, level in enumerate(_LEVELS):
        for zone in (0, 1):
            scene = RegionScene(_Reservoir(512, 1, len(_LEVELS), 3, level), date, 0, zone)
            names.append(studio.work / f"{scene.id}.tif")
            write_simulation(scene, names[-1])
    outputs = ("--outputs", "cog,zarr,probabilities")
    run("segment", *names, "--model", _MODEL, "--out", results, *outputs)
    fusion = ("--crs", "EPSG:32632", "--resolution", 10)
    run("mosaic", results, "--out", results / "monthly", *fusion, "--period", "month", *outputs)
    run("mosaic", results, "--out", results / "all-year", *fusion)
    return results


def draw_map_periods(studio: Studio) -> Image.Image:
    """Photograph a map of months with the history of a pixel, and the border between two months."""
    with open_page(make_monthly_map(studio), 1400, 900) as page:
        page.get_by_label("Filter by name or class").fill("map")
        ask_monthly_map(page)
        page.get_by_label("Swipe between two periods").check()
        page.get_by_label("On the left").select_option(label="May 2024")
        page.locator("#divide").fill("40")
        return shrink(photograph(page), 1050, 32)


def draw_map_on_phone(studio: Studio) -> Image.Image:
    """Photograph a map of months and the history of a pixel, on a phone."""
    with open_page(make_monthly_map(studio), *_PHONE) as page:
        ask_monthly_map(page)
        return shrink(photograph(page), _PHONE[0], 64)


def ask_monthly_map(page: Page) -> None:
    """Choose August of the map of months, and ask about a pixel at the shore of the lake."""
    page.locator("#scenes button", has_text="monthly").click()
    page.get_by_role("slider", name="Period of monthly").fill("3")
    page.evaluate("() => seamline.map.jumpTo({ center: [12.006, 47.9985], zoom: seamline.map.getZoom() + 0.8 })")
    page.wait_for_timeout(4000)
    place = page.evaluate("() => { const { x, y } = seamline.map.project([12.00367, 48.00116]); return [x, y]; }")
    corner = page.locator("#map").bounding_box() or {"x": 0, "y": 0}
    page.mouse.click(corner["x"] + place[0], corner["y"] + place[1])
    page.wait_for_selector("#history:not([hidden])")


PICTURES: dict[str, tuple[Callable[[Studio], Image.Image], str | None]] = {
    "demo.png": (draw_simulated, None),
    "gallery/confusion.png": (draw_confusion, None),
    "gallery/manaus.png": (draw_preview(_LANDSAT["manaus-2023"], "manaus-2023"), "xlandsat"),
    "gallery/momotombo.png": (draw_preview(_LANDSAT["momotombo-2015"], "momotombo-2015"), "xlandsat"),
    "gallery/aquileia.png": (draw_preview("aquileia-s2", "aquileia"), "aquileia-s2"),
    "gallery/madagascar.png": (draw_preview("madagascar-l8-2020", "madagascar-2020"), "madagascar-l8-2020"),
    "gallery/plan.png": (draw_plan, "xlandsat"),
    "gallery/seams.png": (draw_seams, "xlandsat"),
    "gallery/phone-list.png": (draw_list_on_phone, "xlandsat"),
    "gallery/phone-scene.png": (draw_scene_on_phone, "xlandsat"),
    "gallery/map-periods.png": (draw_map_periods, None),
    "gallery/phone-map.png": (draw_map_on_phone, None),
    "serve.png": (draw_map, "xlandsat"),
}
"""Picture → what draws it, and which folder of the data it needs."""


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG with a palette, as wide and with as many colours as fit into so few bytes."""
    most = _MOST_BYTES if path.parent == _DOCS else _MOST_BYTES_OF_GALLERY
    picture = picture.convert("RGB")
    path.parent.mkdir(exist_ok=True)
    for width, colors in product((1200, 1050, 900, 800, 700), (256, 128, 64)):
        small = picture
        if picture.width > width:
            small = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        small.quantize(colors, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < most:
            return
    raise SystemExit(f"{path}: got {path.stat().st_size} bytes at the least width, expected fewer than {most}")


def main() -> None:
    """Make the pictures that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SEAMLINE_DATA", "data")))
    parser.add_argument("--only", choices=PICTURES, nargs="*", default=list(PICTURES))
    parser.add_argument("--out", type=Path, default=_DOCS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        studio = Studio(arguments.data, Path(work))
        for name in arguments.only:
            draw, needs = PICTURES[name]
            if needs and not (arguments.data / needs).exists():
                print(f"{name}: left as it is; it needs {arguments.data / needs}")
                continue
            write_picture(draw(studio), arguments.out / name)
            print(f"{name}: {(arguments.out / name).stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
