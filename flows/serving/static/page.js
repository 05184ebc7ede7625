// The page: what happens when a scene is chosen, a control is used, the map is clicked or something is published.

import { $, announce, fetchJson, formatCount, sceneUrl, showMessage } from "./elements.js";
import { markChosenCard, renderFields, renderList, renderRejected, revealChosenCard, setScenes, startList } from "./list.js";
import * as maps from "./map.js";
import { getLayerTitle, renderOpacity, renderPanel, setRamps } from "./panel.js";
import { closePopup, identifyPixel } from "./pixel.js";
import { watchScenes } from "./refresh.js";
import { readAddress, state, writeAddress } from "./state.js";
import { showBorder, startSwipe } from "./swipe.js";

let scenes = [];
let basemap = null;
let polygonRequests = 0;

const map = createMap();
const loaded = map.once("load");
window.seamline = { map }; // for the console of the browser, and for tests

function createMap() {
  try {
    return maps.createMap("map");
  } catch (error) {
    $("folder").textContent = "";
    showMessage("The map needs WebGL, which this browser does not have or has switched off.");
    throw error;
  }
}

// ---- the chosen scene

const getChosenScene = () => scenes.find((scene) => scene.id === state.scene && !scene.problem);

const listClasses = (scene) => scene?.classes.map((entry) => `${entry.value} ${entry.name}`).join("\n");

function chooseScene(id, move) {
  const before = getChosenScene();
  const isOther = state.scene !== id;
  state.scene = id;
  const scene = getChosenScene();
  if (isOther) closePopup(map);
  if (before && scene && listClasses(before) !== listClasses(scene)) state.hidden.clear(); // labels of another model
  if (!scene) {
    const problem = scenes.find((other) => other.id === id)?.problem;
    showMessage(problem ?? `There is no scene ${id} to be shown here.`);
    return writeAddress(map);
  }
  showMessage(null);
  renderScene(scene);
  if (move && scene.bbox) maps.flyTo(map, scene.bbox, $("panel"));
  if (isOther) {
    announce(`${scene.id} is shown`);
    revealChosenCard();
  }
  writeAddress(map);
}

/** Show what the state says of a scene. */
function renderScene(scene) {
  markChosenCard();
  renderPanel(scene);
  $("preview").hidden = Boolean(scene.bbox && scene.layers.length);
  if (!$("preview").hidden) showPreview(scene);
  if (scene.bbox) {
    maps.showScene(map, scene, state.layer, state.opacity, state.hidden);
    loadPolygons(scene);
  } else {
    maps.clearScene(map);
  }
  renderBorder();
}

function showPreview(scene) {
  const picture = $("preview").querySelector("img");
  picture.src = scene.preview ? sceneUrl(scene, "preview.png") : "";
  picture.alt = `Source and segmentation of ${scene.id}`;
  $("preview").querySelector("figcaption").textContent = scene.bbox
    ? "This scene has no GeoTIFF of its labels, so that it cannot be drawn on the map."
    : "This scene has no place on Earth, so that it cannot be drawn on the map.";
}

function renderBorder() {
  const scene = getChosenScene();
  showBorder(map, state.layer && scene?.layers.includes("overview") ? state.swipe : null, getLayerTitle());
}

async function loadPolygons(scene) {
  const turn = ++polygonRequests;
  $("polygons-note").textContent = "";
  if (!state.polygons || !scene.polygons) return maps.showPolygons(map, null);
  const box = maps.inView(map, scene.bbox);
  if (!box) return maps.showPolygons(map, null);
  try {
    const found = await fetchJson(`${sceneUrl(scene, "polygons")}?bbox=${box.join(",")}`);
    if (turn !== polygonRequests) return; // the view has moved on
    maps.showPolygons(map, found);
    const count = found.features.length.toLocaleString("en-GB");
    $("polygons-note").textContent = found.truncated ? `${count} of those in view; zoom in for all` : `${count} in view`;
  } catch (error) {
    showMessage(error.message);
  }
}

function askPixel(lngLat, point) {
  const there = maps.scenesAt(map, point);
  const scene = there.includes(state.scene) ? getChosenScene() : null;
  if (scene?.layers.includes("segmentation")) identifyPixel(map, scene, lngLat);
  else if (!scene && there.length) { chooseScene(there[0], true); showPane("scene"); }
  else closePopup(map);
}

/** On a narrow page: list or panel below the map. */
function showPane(name) {
  document.body.dataset.pane = name;
  for (const button of $("panes").children) button.setAttribute("aria-pressed", String(button.dataset.pane === name));
}

// ---- the list of scenes, and what is published meanwhile

async function showScenes(found) {
  await loaded;
  const before = new Map(scenes.map((scene) => [scene.id, scene.version]));
  const isFirst = !document.body.dataset.ready;
  scenes = found.scenes;
  document.title = `${found.folder} · Seamline`;
  $("folder").textContent = `${found.folder} · ${formatCount(scenes.length, "scene")}`;
  setRamps(found.ramps);
  renderRejected(found.rejected);
  maps.showFootprints(map, scenes);
  if (isFirst) {
    basemap = found.basemap;
    setScenes(scenes);
    applyAddress();
    document.body.dataset.ready = "true";
    return;
  }
  const published = scenes.filter((scene) => !scene.problem && before.get(scene.id) !== scene.version).map((scene) => scene.id);
  setScenes(scenes, published);
  if (published.length) announce(`${formatCount(published.length, "scene")} published: ${published.slice(0, 3).join(", ")}`);
  const scene = getChosenScene();
  if (scene) renderScene(scene);
  else if (!state.scene && published.length) chooseScene(published[0], true);
}

function applyAddress() {
  const { scene, view } = readAddress();
  if (view) map.jumpTo(view);
  renderFields();
  renderList();
  renderBasemap();
  const id = scene ?? scenes.find((other) => !other.problem)?.id;
  if (id) chooseScene(id, !view);
}

function renderBasemap() {
  $("basemap-label").hidden = !basemap;
  $("basemap").checked = state.basemap;
  maps.showBasemap(map, state.basemap ? basemap : null);
}

// ---- the controls

const redraw = () => { renderScene(getChosenScene()); writeAddress(map); };

$("opacity").addEventListener("input", () => {
  state.opacity = $("opacity").value / 100;
  renderOpacity();
  maps.setOpacity(map, state.opacity);
});
$("opacity").addEventListener("change", () => writeAddress(map));
$("layer").addEventListener("change", () => { state.layer = $("layer").value; redraw(); });
$("polygons").addEventListener("change", () => { state.polygons = $("polygons").checked; redraw(); });
$("compare").addEventListener("change", () => { state.swipe = $("compare").checked ? 0.5 : null; redraw(); });
$("legend").addEventListener("change", ({ target }) => {
  const label = Number(target.dataset.label);
  if (target.checked) state.hidden.delete(label);
  else state.hidden.add(label);
  redraw();
});
$("basemap").addEventListener("change", () => { state.basemap = $("basemap").checked; renderBasemap(); writeAddress(map); });
$("skip").addEventListener("click", () => map.getCanvas().focus());
for (const button of $("panes").children) button.addEventListener("click", () => showPane(button.dataset.pane));
startList((id, move) => { chooseScene(id, move); showPane("scene"); }, () => writeAddress(map));
startSwipe((part) => { state.swipe = part; renderBorder(); writeAddress(map); });

map.on("click", (event) => askPixel(event.lngLat, event.point));
map.on("moveend", () => {
  const scene = getChosenScene();
  if (scene && state.polygons) loadPolygons(scene);
  if (document.body.dataset.ready) writeAddress(map);
});
map.on("resize", renderBorder);
map.getCanvas().addEventListener("keydown", (event) => {
  if (event.key === "Enter") askPixel(map.getCenter(), map.project(map.getCenter()));
  if (event.key === "Escape") closePopup(map);
});
map.on("error", (event) => showMessage(event.error?.message));
window.addEventListener("hashchange", applyAddress);

watchScenes(`scenes${location.search}`, showScenes, showMessage);
