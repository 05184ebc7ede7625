// The page: the list of scenes, the panel of the chosen one, what is under a click, and the address that says all this.

import * as maps from "./map.js";

const $ = (id) => document.getElementById(id);
const TITLES = { segmentation: "Classes", confidence: "Confidence", disagreement: "Disagreement" };
const state = { scene: null, layer: "segmentation", opacity: 0.7, polygons: false, view: null };
let scenes = [];
let ramps = {};
let popup = null;
let polygonRequests = 0;

const map = maps.createMap("map");
window.seamline = { map }; // for the console of the browser, and for tests

// ---- words and numbers

const formatNumber = (value) => value.toLocaleString("en-GB", { maximumSignificantDigits: 3 });

function formatArea(m2) {
  if (m2 === null) return "";
  if (m2 >= 1e6) return `${formatNumber(m2 / 1e6)} km²`;
  if (m2 >= 1e4) return `${formatNumber(m2 / 1e4)} ha`;
  return `${formatNumber(m2)} m²`;
}

function formatShare(part) {
  return part > 0 && part < 0.0005 ? "< 0.1 %" : `${(part * 100).toFixed(1)} %`;
}

// Probabilities are known to 0.004, and do not sum to one more exactly than that.
function formatProbability(part) {
  return part < 0.005 ? "< 1 %" : part > 0.995 ? "> 99 %" : `${Math.round(part * 100)} %`;
}

function formatDate(scene) {
  if (!scene.date) return "date unknown";
  const days = [scene.date, ...(scene.last_date ? [scene.last_date] : [])];
  const form = { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" };
  return days.map((day) => new Date(day).toLocaleDateString("en-GB", form)).join(" – ");
}

// Text only: names come from files.
function createElement(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function createSwatch(color) {
  const element = createElement("i", { className: "swatch" });
  element.style.background = color;
  return element;
}

async function fetchJson(path) {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(typeof body.detail === "string" ? body.detail : response.statusText);
  return body;
}

function showMessage(text) {
  $("message").textContent = text ?? "";
  $("message").hidden = !text;
}

// ---- the list

function createCard(scene) {
  const button = createElement("button", { type: "button", title: scene.id }, createElement("span", { className: "name", textContent: scene.id }));
  button.dataset.scene = scene.id;
  if (scene.problem) {
    button.append(createElement("span", { className: "problem", textContent: scene.problem }));
    button.disabled = true;
    return createElement("li", {}, button);
  }
  button.append(createElement("span", { className: "when", textContent: scene.bbox ? formatDate(scene) : `${formatDate(scene)} · not on the map` }));
  const there = scene.classes.filter((entry) => entry.share > 0).sort((a, b) => b.share - a.share);
  const captions = there.map((entry) => `${entry.name} ${formatShare(entry.share)}`);
  const bar = createElement("span", { className: "bar" });
  for (const [place, { color, share: part }] of there.entries()) {
    const piece = createElement("i", { title: captions[place] });
    Object.assign(piece.style, { background: color, flexGrow: part });
    bar.append(piece);
  }
  const words = there.map((entry, place) => createElement("span", {}, createSwatch(entry.color), captions[place]));
  button.title = [scene.id, ...captions].join("\n");
  button.append(bar, createElement("span", { className: "shares" }, ...words));
  button.addEventListener("click", () => chooseScene(scene.id, true));
  return createElement("li", {}, button);
}

function renderList() {
  const wanted = $("filter").value.trim().toLowerCase();
  const named = (scene) => [scene.id, scene.date ?? "", ...(scene.classes ?? []).filter((c) => c.share > 0).map((c) => c.name)];
  const kept = scenes.filter((scene) => named(scene).join(" ").toLowerCase().includes(wanted));
  $("scenes").replaceChildren(...kept.map(createCard));
  markChosenCard();
}

// Files that could not be segmented, below the scenes.
function renderRejected(rejected) {
  $("rejected").hidden = !rejected.length;
  const cards = rejected.map(({ name, reason }) => createElement("li", { textContent: `${name}: ${reason}` }));
  $("rejected").replaceChildren(createElement("summary", { textContent: `${rejected.length} not segmented` }), createElement("ul", {}, ...cards));
}

function markChosenCard() {
  for (const button of $("scenes").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.dataset.scene === state.scene));
  }
}

// ---- the chosen scene

const getChosenScene = () => scenes.find((scene) => scene.id === state.scene && !scene.problem);

function chooseScene(id, move) {
  const changed = state.scene !== id;
  state.scene = id;
  const scene = getChosenScene();
  if (changed) closePopup();
  if (!scene) {
    const problem = scenes.find((other) => other.id === id)?.problem;
    showMessage(problem ?? `There is no scene ${id} to be shown here.`);
    return writeAddress();
  }
  showMessage(null);
  markChosenCard();
  renderPanel(scene);
  $("preview").hidden = Boolean(scene.bbox && scene.layers.length);
  if (scene.bbox) {
    drawScene(scene);
    if (move) maps.flyTo(map, scene.bbox, $("panel"));
  } else {
    maps.clearScene(map);
  }
  if (!$("preview").hidden) {
    const picture = $("preview").querySelector("img");
    picture.src = scene.preview ? `scenes/${encodeURIComponent(scene.id)}/preview.png` : "";
    picture.alt = `Source and segmentation of ${scene.id}`;
    $("preview").querySelector("figcaption").textContent = scene.bbox
      ? "This scene has no GeoTIFF of its labels, so that it cannot be drawn on the map."
      : "This scene has no place on Earth, so that it cannot be drawn on the map.";
  }
  writeAddress();
}

function renderPanel(scene) {
  $("panel").hidden = false;
  $("title").textContent = scene.id;
  const [height, width] = scene.shape;
  $("facts").textContent = [formatDate(scene), `${width.toLocaleString("en-GB")} × ${height.toLocaleString("en-GB")} pixels`, scene.crs]
    .filter(Boolean).join(" · ");
  const layers = scene.layers.filter((layer) => layer !== "overview");
  if (!layers.includes(state.layer)) state.layer = layers[0] ?? null;
  $("controls").hidden = !layers.length;
  $("layer").replaceChildren(...layers.map((layer) => createElement("option", { value: layer, textContent: TITLES[layer] })));
  $("layer").value = state.layer ?? "";
  for (const id of ["layer", "layer-label"]) $(id).hidden = layers.length < 2;
  for (const id of ["polygons-label", "polygons-note"]) $(id).hidden = !scene.polygons;
  $("polygons").checked = state.polygons;
  const rows = scene.classes.map((entry) =>
    createElement("tr", { className: entry.share ? "" : "none" }, createElement("td", {}, createSwatch(entry.color), entry.name),
      createElement("td", { textContent: formatShare(entry.share) }), createElement("td", { textContent: formatArea(entry.area_m2) })));
  $("legend").querySelector("tbody").replaceChildren(...rows);
  renderRamp();
  renderOpacity();
}

function renderRamp() {
  const look = ramps[state.layer];
  $("ramp").hidden = !look;
  if (!look) return;
  const [dark, bar, bright] = $("ramp").children;
  dark.textContent = "0";
  bar.style.background = `linear-gradient(90deg, ${look.colors.join(", ")})`;
  bright.textContent = look.brightest < 1 ? `${look.brightest} and more` : "1";
}

function renderOpacity() {
  $("opacity").value = Math.round(state.opacity * 100);
  $("percent").textContent = `${$("opacity").value} %`;
}

function drawScene(scene) {
  maps.showScene(map, scene, state.layer, state.opacity);
  loadPolygons(scene);
}

async function loadPolygons(scene) {
  const turn = ++polygonRequests;
  $("polygons-note").textContent = "";
  if (!state.polygons || !scene.polygons) return maps.showPolygons(map, null);
  const box = maps.inView(map, scene.bbox);
  if (!box) return maps.showPolygons(map, null);
  try {
    const found = await fetchJson(`scenes/${encodeURIComponent(scene.id)}/polygons?bbox=${box.join(",")}`);
    if (turn !== polygonRequests) return; // the view has moved on
    maps.showPolygons(map, found);
    const count = found.features.length.toLocaleString("en-GB");
    $("polygons-note").textContent = found.truncated ? `${count} of those in view; zoom in for all` : `${count} in view`;
  } catch (error) {
    showMessage(error.message);
  }
}

// ---- what is under a click

async function identifyPixel(lngLat, point) {
  const there = maps.scenesAt(map, point);
  const scene = there.includes(state.scene) ? getChosenScene() : null;
  if (!scene) return there.length ? chooseScene(there[0], true) : closePopup();
  if (!scene.layers.includes("segmentation")) return;
  const { lng, lat } = lngLat.wrap();
  try {
    const found = await fetchJson(`scenes/${encodeURIComponent(scene.id)}/pixel?lon=${lng}&lat=${lat}`);
    showAnswer(scene, found, lngLat);
  } catch (error) {
    closePopup();
    showMessage(error.message);
  }
}

function showAnswer(scene, found, lngLat) {
  closePopup();
  showMessage(null);
  const color = Object.fromEntries(scene.classes.map((entry) => [entry.name, entry.color]));
  const box = createElement("div", { className: "answer" });
  const heading = createElement("div", { className: "what" });
  if (found.class) heading.append(createSwatch(color[found.class]));
  heading.append(found.class ?? "no data");
  box.append(heading);
  const odds = Object.entries(found.probabilities ?? {}).filter(([, value]) => value !== null);
  if (odds.length) box.append(createBars(odds.sort((a, b) => b[1] - a[1]), color));
  const also = ["confidence", "disagreement"].filter((name) => typeof found[name] === "number");
  if (also.length) box.append(createElement("div", { className: "where", textContent: also.map((name) => `${name} ${found[name].toFixed(2)}`).join(" · ") }));
  const place = `${lngLat.wrap().lat.toFixed(5)}°, ${lngLat.wrap().lng.toFixed(5)}° · row ${found.row}, col ${found.col}`;
  box.append(createElement("div", { className: "where" }, place, createElement("br"), scene.id));
  maps.markPixel(map, found.outline);
  // Beside the point where the panel would cover what stands above it.
  const { offsetLeft } = $("panel"); // 0 where it stands below the map
  const covered = offsetLeft > 0 && map.project(lngLat).x + 160 > offsetLeft;
  popup = new maplibregl.Popup({ maxWidth: "300px", focusAfterOpen: false, ...(covered && { anchor: "right" }) })
   .setLngLat(lngLat).setDOMContent(box).addTo(map);
  popup.on("close", () => maps.markPixel(map, null));
}

function createBars(odds, color) {
  const table = createElement("div", { className: "odds" });
  for (const [name, value] of odds) {
    const bar = createElement("i");
    Object.assign(bar.style, { background: color[name], width: `${Math.max(2, value * 100)}%` });
    table.append(createElement("b", { textContent: name }), createElement("div", {}, bar), createElement("span", { textContent: formatProbability(value) }));
    bar.style.display = "block";
  }
  return table;
}

function closePopup() {
  popup?.remove();
  popup = null;
  maps.markPixel(map, null);
}

// ---- the address: #scene=…&view=lon,lat,zoom&opacity=0.7&layer=…&polygons=1

function writeAddress() {
  const { lng, lat } = map.getCenter();
  const parts = new URLSearchParams();
  if (state.scene) parts.set("scene", state.scene);
  parts.set("view", [lng.toFixed(5), lat.toFixed(5), map.getZoom().toFixed(2)].join(","));
  parts.set("opacity", state.opacity);
  if (state.layer && state.layer !== "segmentation") parts.set("layer", state.layer);
  if (state.polygons) parts.set("polygons", "1");
  history.replaceState(null, "", `#${parts.toString().replaceAll("%2C", ",")}`);
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const opacity = Number.parseFloat(parts.get("opacity"));
  if (opacity >= 0 && opacity <= 1) state.opacity = opacity;
  state.layer = parts.get("layer") ?? "segmentation";
  state.polygons = parts.get("polygons") === "1";
  const [lng, lat, zoom] = (parts.get("view") ?? "").split(",").map(Number);
  const placed = Math.abs(lng) <= 540 && Math.abs(lat) <= 90 && zoom >= 0;
  if (placed) map.jumpTo({ center: [lng, lat], zoom });
  const id = parts.get("scene") ?? scenes.find((scene) => !scene.problem)?.id;
  if (id) chooseScene(id, !placed);
}

// ---- the start

$("filter").addEventListener("input", renderList);
$("opacity").addEventListener("input", () => {
  state.opacity = $("opacity").value / 100;
  renderOpacity();
  maps.setOpacity(map, state.opacity);
});
$("opacity").addEventListener("change", writeAddress);
$("layer").addEventListener("change", () => { state.layer = $("layer").value; chooseScene(state.scene, false); });
$("polygons").addEventListener("change", () => { state.polygons = $("polygons").checked; chooseScene(state.scene, false); });
map.on("click", (event) => identifyPixel(event.lngLat, event.point));
map.on("moveend", () => { const scene = getChosenScene(); if (scene && state.polygons) loadPolygons(scene); writeAddress(); });
map.getCanvas().addEventListener("keydown", (event) => {
  if (event.key === "Enter") identifyPixel(map.getCenter(), map.project(map.getCenter()));
});
map.on("error", (event) => showMessage(event.error?.message));
window.addEventListener("hashchange", readAddress);

Promise.all([fetchJson(`scenes${location.search}`), map.once("load")])
  .then(([found]) => {
    ({ scenes, ramps } = found);
    document.title = `${found.folder} · Seamline`;
    $("folder").textContent = `${found.folder} · ${scenes.length} ${scenes.length === 1 ? "scene" : "scenes"}`;
    $("filter").hidden = scenes.length < 6;
    renderList();
    renderRejected(found.rejected);
    maps.showFootprints(map, scenes);
    readAddress();
    document.body.dataset.ready = "true";
  })
  .catch((error) => showMessage(error.message));
