// The map: land, footprints, the layers of one scene, its polygons, the pixel that was asked about.

import { sceneUrl } from "./elements.js";
import { BEGIN, END } from "./swipe.js";

const EMPTY = { type: "FeatureCollection", features: [] };
const BLUE = "#1f6fb5";
const INK = "#1f2933";
const shown = { scene: null, version: null, layer: null, hidden: "" };

const STYLE = {
  version: 8,
  sources: {
    land: { type: "geojson", data: "static/land.geojson", attribution: "Land: Natural Earth" },
    graticule: { type: "geojson", data: graticule() },
    footprints: { type: "geojson", data: EMPTY },
    polygons: { type: "geojson", data: EMPTY },
    pixel: { type: "geojson", data: EMPTY },
  },
  layers: [
    { id: "sea", type: "background", paint: { "background-color": fading("#e4eaef", "#f1f2f1") } },
    // The outline is a coarse one: it says where on Earth we are, and land and sea become one before it would be wrong.
    { id: "land", type: "fill", source: "land",
      paint: { "fill-color": "#f6f5f1", "fill-opacity": fading(1, 0) } },
    { id: "graticule", type: "line", source: "graticule",
      paint: { "line-color": "#ffffff", "line-width": 1, "line-opacity": fading(1, 0) } },
    { id: "footprints", type: "fill", source: "footprints",
      paint: { "fill-color": BLUE, "fill-opacity": ["interpolate", ["linear"], ["zoom"], 7, 0.25, 10, 0.06] } },
    { id: "places", type: "circle", source: "footprints", maxzoom: 7, filter: ["==", ["geometry-type"], "Point"],
      paint: { "circle-radius": 5, "circle-color": BLUE, "circle-stroke-color": "#fff", "circle-stroke-width": 1.5 } },
    { id: "outlines", type: "line", source: "footprints", filter: ["==", ["geometry-type"], "LineString"],
      paint: { "line-color": BLUE, "line-width": 1.2 } },
    { id: "polygons", type: "line", source: "polygons", paint: { "line-color": INK, "line-width": 1, "line-opacity": 0.85 } },
    { id: "pixel-halo", type: "line", source: "pixel", paint: { "line-color": "#fff", "line-width": 5 } },
    { id: "pixel", type: "line", source: "pixel", paint: { "line-color": INK, "line-width": 2 } },
  ],
};

/** From what is seen of the world to what is seen of a place. */
function fading(world, place) {
  return ["interpolate", ["linear"], ["zoom"], 5, world, 7.5, place];
}

export function createMap(container) {
  const map = new maplibregl.Map({
    container, style: STYLE, center: [0, 20], zoom: 1.2, maxZoom: 20, dragRotate: false, pitchWithRotate: false,
    attributionControl: { compact: true },
    locale: { "Map.Title": "Map of the scenes" },
  });
  map.once("load", () => {
    for (const layer of [BEGIN, END]) map.addLayer(layer, "outlines");
  });
  map.getCanvas().setAttribute("aria-describedby", "map-help");
  map.touchZoomRotate.disableRotation();
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "bottom-right");
  map.addControl(new maplibregl.ScaleControl({ maxWidth: 120 }), "bottom-left");
  return map;
}

export function showFootprints(map, scenes) {
  const placed = scenes.filter((scene) => scene.geometry);
  const features = placed.flatMap(({ id, geometry, bbox }) => [
    { type: "Feature", properties: { id }, geometry },
    { type: "Feature", properties: { id }, geometry: outline(geometry) },
    { type: "Feature", properties: { id }, geometry: { type: "Point", coordinates: centre(bbox) } },
  ]);
  map.getSource("footprints").setData({ type: "FeatureCollection", features });
}

/** The border of a footprint, without the cut at the antimeridian. */
function outline({ type, coordinates }) {
  const rings = type === "MultiPolygon" ? coordinates.flat() : coordinates;
  const cut = (a, b) => Math.abs(a[0]) === 180 && a[0] === b[0];
  const sides = rings.flatMap((ring) => ring.slice(1).map((end, place) => [ring[place], end]));
  return { type: "MultiLineString", coordinates: sides.filter(([start, end]) => !cut(start, end)) };
}

export function scenesAt(map, point) {
  return [...new Set(map.queryRenderedFeatures(point, { layers: ["places", "footprints"] }).map((f) => f.properties.id))];
}

/** Draw tiles of another server below all else; `null`: none. */
export function showBasemap(map, basemap) {
  drop(map, "basemap");
  for (const name of ["land", "graticule"]) map.setLayoutProperty(name, "visibility", basemap ? "none" : "visible");
  if (!basemap) return;
  map.addSource("basemap", { type: "raster", tiles: [basemap.tiles], tileSize: 256, maxzoom: 19, attribution: basemap.attribution });
  map.addLayer({ id: "basemap", type: "raster", source: "basemap", paint: { "raster-fade-duration": 0 } }, "land");
}

/** Draw a layer of a scene, without the classes whose labels are `hidden`, above the scene in colour. */
export function showScene(map, scene, layer, opacity, hidden) {
  if (shown.scene !== scene.id || shown.version !== scene.version) {
    for (const name of ["overview", "layer"]) drop(map, name);
    if (scene.layers.includes("overview")) draw(map, "overview", scene, "overview", "linear");
    Object.assign(shown, { scene: scene.id, version: scene.version, layer: null });
  }
  const labels = layer === "segmentation" ? [...hidden].sort((a, b) => a - b).join(",") : "";
  if (shown.layer !== layer || shown.hidden !== labels) {
    drop(map, "layer");
    if (layer) draw(map, "layer", scene, layer, "nearest", labels ? { hidden: labels } : {});
    Object.assign(shown, { layer, hidden: labels });
  }
  setOpacity(map, opacity);
}

export function clearScene(map) {
  for (const name of ["overview", "layer"]) drop(map, name);
  Object.assign(shown, { scene: null, layer: null });
}

export function setOpacity(map, opacity) {
  if (map.getLayer("layer")) map.setPaintProperty("layer", "raster-opacity", opacity);
}

export function showPolygons(map, data) {
  map.getSource("polygons").setData(data ?? EMPTY);
}

export function markPixel(map, ring) {
  const data = ring ? { type: "Feature", properties: {}, geometry: { type: "Polygon", coordinates: [ring] } } : EMPTY;
  map.getSource("pixel").setData(data);
}

/** Whether the panel covers the right side of the map, and does not stand below it. */
export const isCovered = (panel) => panel.offsetLeft > 0 && panel.offsetTop < 100;

export function flyTo(map, bbox, panel) {
  const [west, south, east, north] = unwrapped(bbox);
  const right = isCovered(panel) ? Math.min(panel.offsetWidth + 40, map.getContainer().clientWidth / 2) : 55; // beside the buttons
  map.fitBounds([[west, south], [east, north]], { padding: { top: 40, bottom: 50, left: 40, right }, duration: 0, maxZoom: 17 });
}

function draw(map, name, scene, layer, resampling, options = {}) {
  const url = new URL(`${sceneUrl(scene, "layers", layer)}/WebMercatorQuad/tilejson.json`, location.href);
  url.search = new URLSearchParams({ tilesize: 512, minzoom: 0, tile_format: "png", v: scene.version, ...options });
  url.hash = "";
  map.addSource(name, { type: "raster", url: url.href, tileSize: 512 });
  const paint = { "raster-resampling": resampling, "raster-fade-duration": 0 };
  map.addLayer({ id: name, type: "raster", source: name, paint }, name === "overview" ? BEGIN.id : END.id);
}

function drop(map, name) {
  if (map.getLayer(name)) map.removeLayer(name);
  if (map.getSource(name)) map.removeSource(name);
}

/** A box whose east lies east of its west, beyond 180 across the antimeridian. */
function unwrapped([west, south, east, north]) {
  return [west, south, east < west ? east + 360 : east, north];
}

/** What is in view of a box, west > east across the antimeridian; null if that is nothing. */
export function inView(map, bbox) {
  const view = map.getBounds();
  const [west, south, east, north] = unwrapped(bbox);
  const seen = [-360, 0, 360] // the world is drawn again on both sides
    .map((turn) => [Math.max(west + turn, view.getWest()), Math.min(east + turn, view.getEast())])
    .reduce((a, b) => (b[1] - b[0] > a[1] - a[0] ? b : a));
  const [bottom, top] = [Math.max(south, view.getSouth()), Math.min(north, view.getNorth())];
  const within = (lon) => (lon > 180 ? lon - 360 : lon < -180 ? lon + 360 : lon);
  return seen[0] < seen[1] && bottom < top ? [within(seen[0]), bottom, within(seen[1]), top] : null;
}

function centre(bbox) {
  const [west, south, east, north] = unwrapped(bbox);
  return [(west + east) / 2, (south + north) / 2];
}

function graticule(step = 10) {
  const line = (coordinates) => ({ type: "Feature", properties: {}, geometry: { type: "LineString", coordinates } });
  const features = [];
  for (let lon = -180; lon <= 180; lon += step) features.push(line([[lon, -85], [lon, 85]]));
  for (let lat = -80; lat <= 80; lat += step) features.push(line([[-180, lat], [180, lat]]));
  return { type: "FeatureCollection", features };
}
