// The map: land, footprints, the layers of one scene, its polygons, the pixel that was asked about.

import { $, sceneUrl } from "./elements.js";
import { END, LEFT, RIGHT } from "./swipe.js";

const EMPTY = { type: "FeatureCollection", features: [] };
const BLUE = "#1f6fb5";
const FOOTPRINT_OPACITY = ["interpolate", ["linear"], ["zoom"], 7, 0.25, 10, 0.06];
const INK = "#1f2933";
/** What is drawn from the bottom to the top, below which layer, and what is being loaded to take its place. */
const slots = {
  overview: { below: LEFT.id, drawn: null, coming: null },
  beside: { below: RIGHT.id, drawn: null, coming: null },
  layer: { below: END.id, drawn: null, coming: null },
};
let layerOpacity = 1;
let drawings = 0;

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
      paint: { "fill-color": BLUE, "fill-opacity": FOOTPRINT_OPACITY, "fill-opacity-transition": { duration: 0 } } },
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
    for (const layer of [LEFT, RIGHT, END]) map.addLayer(layer, "outlines");
    map.moveLayer("polygons", END.id); // on the side of their layer
  });
  for (const event of ["sourcedata", "idle"]) map.on(event, () => exchange(map));
  map.getCanvas().setAttribute("aria-describedby", "map-help");
  map.touchZoomRotate.disableRotation();
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "bottom-right");
  map.addControl(new maplibregl.ScaleControl({ maxWidth: 120 }), "bottom-left");
  return map;
}

/** Draw where scenes lie; above a map its own border alone, since others would be taken for lines in it. */
export function showFootprints(map, scenes, chosen) {
  const placed = scenes.filter((scene) => scene.geometry);
  const features = placed.flatMap(({ id, geometry, bbox }) => [
    { type: "Feature", properties: { id }, geometry },
    ...(chosen?.map && id !== chosen.id ? [] : [{ type: "Feature", properties: { id }, geometry: outline(geometry) }]),
    { type: "Feature", properties: { id }, geometry: { type: "Point", coordinates: centre(bbox) } },
  ]);
  map.getSource("footprints").setData({ type: "FeatureCollection", features });
  map.setPaintProperty("footprints", "fill-opacity", chosen?.map ? 0 : FOOTPRINT_OPACITY);
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

/**
 * Draw a layer of a scene, without the classes whose labels are `hidden`, above the scene in colour; left of the border
 * the same layer of another period of the map, `beside`, or none (null).
 */
export function showScene(map, scene, layer, opacity, hidden, beside) {
  layerOpacity = opacity;
  const labels = [...hidden].sort((a, b) => a - b).join(",");
  const options = layer === "segmentation" && labels ? { hidden: labels } : {};
  fill(map, "overview", scene.layers.includes("overview") ? describe(scene, "overview", {}) : null);
  fill(map, "beside", beside && beside.layers.includes(layer) ? describe(beside, layer, options) : null);
  fill(map, "layer", layer ? describe(scene, layer, options) : null);
  setOpacity(map, opacity);
}

export function clearScene(map) {
  for (const name of Object.keys(slots)) fill(map, name, null);
}

export function setOpacity(map, opacity) {
  layerOpacity = opacity;
  for (const name of ["beside", "layer"]) {
    if (slots[name].drawn) map.setPaintProperty(slots[name].drawn.id, "raster-opacity", opacity);
  }
}

/** What tells a drawing from others: the address of its tiles; and of which place it is. */
function describe(scene, layer, options) {
  const url = new URL(`${sceneUrl(scene, "layers", layer)}/WebMercatorQuad/tilejson.json`, location.href);
  url.search = new URLSearchParams({ tilesize: 512, minzoom: 0, tile_format: "png", v: scene.version, ...options });
  url.hash = "";
  return { url: url.href, place: scene.map ? `map ${scene.map}` : `scene ${scene.id}`, resampling: layer === "overview" ? "linear" : "nearest" };
}

/** Draw something in a slot. What was drawn there of the same place stays until all of it has been loaded. */
function fill(map, name, wanted) {
  const slot = slots[name];
  if (wanted && slot.coming?.url === wanted.url) return;
  const { drawn, coming } = slot;
  slot.coming = null; // first, since the map tells of what is erased while it erases it
  if (coming) erase(map, coming);
  if (wanted && drawn?.url === wanted.url) return;
  if (drawn && drawn.place !== wanted?.place) {
    slot.drawn = null;
    erase(map, drawn);
  }
  if (!wanted) return;
  const drawing = { ...wanted, id: `${name}-${++drawings}` };
  const opacity = name === "overview" ? 1 : layerOpacity;
  map.addSource(drawing.id, { type: "raster", url: drawing.url, tileSize: 512 });
  const paint = {
    "raster-resampling": drawing.resampling, "raster-fade-duration": 0, "raster-opacity": slot.drawn ? 0 : opacity,
    "raster-opacity-transition": { duration: 0, delay: 0 },
  };
  map.addLayer({ id: drawing.id, type: "raster", source: drawing.id, paint }, slot.below);
  if (!slot.drawn) slot.drawn = drawing;
  else slot.coming = drawing;
}

/** Let what has been loaded take the place of what was drawn before. */
function exchange(map) {
  for (const [name, slot] of Object.entries(slots)) {
    if (!slot.coming || !map.isSourceLoaded(slot.coming.id)) continue;
    const { drawn, coming } = slot;
    Object.assign(slot, { drawn: coming, coming: null });
    map.setPaintProperty(coming.id, "raster-opacity", name === "overview" ? 1 : layerOpacity);
    erase(map, drawn);
  }
}

function erase(map, { id }) {
  map.removeLayer(id);
  map.removeSource(id);
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

/** Show all of some boxes, which overlap or lie beside each other. */
export function flyTo(map, boxes, panel) {
  const [first, ...others] = boxes.map(unwrapped);
  const [west, south, east, north] = others.reduce((whole, box) => {
    const turn = 360 * Math.round((whole[0] - box[0]) / 360); // beyond 180 like the first one, across the antimeridian
    return [Math.min(whole[0], box[0] + turn), Math.min(whole[1], box[1]), Math.max(whole[2], box[2] + turn), Math.max(whole[3], box[3])];
  }, first);
  const right = isCovered(panel) ? Math.min(panel.offsetWidth + 40, map.getContainer().clientWidth / 2) : 55; // beside the buttons
  map.fitBounds([[west, south], [east, north]], { padding: { top: 40, bottom: $("time").hidden || !isCovered(panel) ? 50 : 110, left: 40, right }, duration: 0, maxZoom: 17 });
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
