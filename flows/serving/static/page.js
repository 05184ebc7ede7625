// The page: what happens when a scene is chosen, a control is used, the map is clicked or something is published.

import { $, announce, fetchJson, sceneUrl, showMessage } from "./elements.js";
import { describeCount, findFirst, findMap, formatPeriod, getPeriods, groupScenes, listShown, rememberShown } from "./groups.js";
import { startHistory } from "./history.js";
import { markChosenCard, renderFields, renderList, renderRejected, revealChosenCard, setScenes, startList } from "./list.js";
import * as maps from "./map.js";
import { getBeside, getLayerTitle, renderOpacity, renderPanel, setRamps } from "./panel.js";
import { closePopup, getAsked, identifyPixel } from "./pixel.js";
import { watchScenes } from "./refresh.js";
import { readAddress, state, writeAddress } from "./state.js";
import { showBorder, startSwipe } from "./swipe.js";
import { renderTime, startTime } from "./time.js";

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
  const isSameMap = before?.map && before.map === scene?.map;
  if (isOther && !isSameMap) closePopup(map);
  if (before && scene && listClasses(before) !== listClasses(scene)) state.hidden.clear(); // labels of another model
  if (!scene) {
    const problem = scenes.find((other) => other.id === id)?.problem;
    showMessage(problem ?? `There is no scene ${id} to be shown here.`);
    return writeAddress(map);
  }
  showMessage(null);
  rememberShown(scene);
  if (isOther && scene.map) renderList();
  renderScene(scene);
  if (move && scene.bbox && !(isSameMap && isOther)) flyTo(scene);
  if (isOther && isSameMap && getAsked()) identifyPixel(map, scene, getAsked());
  if (isOther && !isSameMap) {
    announce(`${scene.map ? `Map ${scene.map}, ${formatPeriod(scene.period)},` : scene.id} is shown`);
    revealChosenCard();
  }
  writeAddress(map);
}

/** Move the map to a scene, or to a map, all of whose periods are then seen. */
function flyTo(scene) {
  const periods = getPeriods(scene).filter(({ bbox }) => bbox);
  maps.flyTo(map, (periods.length ? periods : [scene]).map(({ bbox }) => bbox), $("panel"));
}

/** Show what the state says of a scene. */
function renderScene(scene) {
  markChosenCard();
  renderPanel(scene);
  $("preview").hidden = Boolean(scene.bbox && scene.layers.length);
  if (!$("preview").hidden) showPreview(scene);
  renderTime(scene, getPeriods(scene));
  maps.showFootprints(map, listShown(), scene);
  if (scene.bbox) {
    maps.showScene(map, scene, state.layer, state.opacity, state.hidden, state.swipe === null ? null : getBeside(scene));
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
  const beside = getBeside(scene);
  const isPossible = state.layer && (beside || scene?.layers.includes("overview"));
  const titles = beside ? [formatPeriod(beside.period), formatPeriod(scene.period)] : ["Scene", getLayerTitle()];
  showBorder(map, isPossible ? state.swipe : null, titles);
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
  if (scene?.layers.includes("segmentation")) {
    if (scene.map) showPane("scene"); // where its history stands
    identifyPixel(map, scene, lngLat);
  }
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
  const chosen = getChosenScene();
  const isFirst = !document.body.dataset.ready;
  scenes = found.scenes;
  document.title = `${found.folder} · Seamline`;
  $("folder").textContent = `${found.folder} · ${describeCount(groupScenes(scenes))}`;
  setRamps(found.ramps);
  renderRejected(found.rejected);
  maps.showFootprints(map, listShown(), getChosenScene());
  if (isFirst) {
    basemap = found.basemap;
    setScenes(scenes);
    applyAddress();
    document.body.dataset.ready = "true";
    return;
  }
  const published = scenes.filter((scene) => !scene.problem && before.get(scene.id) !== scene.version).map((scene) => scene.id);
  setScenes(scenes, published);
  if (published.length) announcePublished(published);
  const scene = getChosenScene();
  const other = chosen?.map && findMap(chosen.map);
  if (scene) {
    renderScene(scene);
    if (getAsked() && getPeriods(scene).some(({ id }) => published.includes(id))) identifyPixel(map, scene, getAsked());
  } else if (other) chooseScene(other.id, false); // its period is gone
  else if (!state.scene && published.length) chooseScene(published[0], true);
}

function announcePublished(ids) {
  const entries = groupScenes(scenes).filter((entry) => entry.scenes.some(({ id }) => ids.includes(id)));
  announce(`${describeCount(entries)} published: ${entries.slice(0, 3).map(({ title }) => title).join(", ")}`);
}

function applyAddress() {
  const { scene, view } = readAddress();
  if (view) map.jumpTo(view);
  renderFields();
  renderList();
  renderBasemap();
  const id = scene ?? findFirst()?.id;
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
$("beside").addEventListener("change", () => { state.beside = $("beside").value; redraw(); });
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
startTime((id) => chooseScene(id, false));
startHistory((id, place) => {
  const isOfMap = getPeriods(getChosenScene()).some((period) => period.id === id);
  chooseScene(id, false);
  const scene = getChosenScene();
  if (!isOfMap && scene?.bbox && place) identifyPixel(map, scene, new maplibregl.LngLat(place.lng, place.lat));
});
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
