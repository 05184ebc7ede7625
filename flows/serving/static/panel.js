// The panel of the chosen scene, or of the period of a map: its files, what is drawn of it, its classes.

import { $, createElement, createSwatch, fetchJson, fileUrl, formatArea, formatDate, formatShare, formatSize, sceneUrl } from "./elements.js";
import { formatPeriod, getPeriods } from "./groups.js";
import { state } from "./state.js";

const TITLES = {
  segmentation: "Classes", confidence: "Confidence", disagreement: "Disagreement",
  agreement: "Agreement", observations: "Observations", last_date: "Last observation",
};
/** Links that stand above all files. */
const LINKS = { "report.html": "Report", "segmentation.tif": "GeoTIFF", "item.json": "STAC item" };
const SHOWN_HERE = /\.(html|png|json)$/; // by the browser; others are downloaded
let ramps = {};

export const setRamps = (found) => { ramps = found; };

export const getLayerTitle = () => TITLES[state.layer] ?? "";

export function renderPanel(scene) {
  $("panel").hidden = false;
  for (const button of $("panes").children) button.disabled = false;
  $("title").textContent = scene.map ?? scene.id;
  $("kind").hidden = !scene.map;
  const name = scene.map ? "Selected map" : "Selected scene";
  $("panel").setAttribute("aria-label", name);
  $("panes").lastElementChild.textContent = name;
  const periods = getPeriods(scene);
  const [height, width] = scene.shape;
  $("facts").textContent = [scene.map ? formatPeriod(scene.period) : formatDate(scene), `${width.toLocaleString("en-GB")} × ${height.toLocaleString("en-GB")} pixels`, scene.crs]
    .filter(Boolean).join(" · ");
  const layers = scene.layers.filter((layer) => layer !== "overview");
  if (!layers.includes(state.layer)) state.layer = layers[0] ?? null;
  $("controls").hidden = !layers.length;
  $("layer").replaceChildren(...layers.map((layer) => createElement("option", { value: layer, textContent: TITLES[layer] })));
  $("layer").value = state.layer ?? "";
  for (const id of ["layer", "layer-label"]) $(id).hidden = layers.length < 2;
  $("compare-label").hidden = periods.length < 2 && !scene.layers.includes("overview");
  $("compare-label").lastElementChild.textContent = periods.length < 2 ? "Swipe between scene and layer" : "Swipe between two periods";
  $("compare").checked = state.swipe !== null;
  renderBeside(scene, periods);
  for (const id of ["polygons-label", "polygons-note"]) $(id).hidden = !scene.polygons;
  $("polygons").checked = state.polygons;
  renderLegend(scene);
  renderRamp(scene);
  renderOpacity();
  renderFiles(scene);
}

/** The period that is left of the border: the one that was chosen, or the one before that which is shown. */
export function getBeside(scene) {
  const periods = getPeriods(scene);
  if (periods.length < 2) return null;
  return periods.find(({ id }) => id === state.beside) ?? periods[periods.indexOf(scene) - 1] ?? periods[1];
}

function renderBeside(scene, periods) {
  for (const id of ["beside", "beside-label"]) $(id).hidden = periods.length < 2 || state.swipe === null;
  $("beside").replaceChildren(...periods.map(({ id, period }) => createElement("option", { value: id, textContent: formatPeriod(period) })));
  $("beside").value = getBeside(scene)?.id ?? "";
}

/** The classes, each with a switch where they are what is drawn. */
function renderLegend(scene) {
  const focused = document.activeElement?.dataset?.label;
  const rows = scene.classes.map((entry) => {
    const name = [createSwatch(entry.color), entry.name];
    let head = name;
    if (state.layer === "segmentation" && entry.share > 0) {
      const box = createElement("input", { type: "checkbox", checked: !state.hidden.has(entry.value) });
      box.dataset.label = entry.value;
      head = [createElement("label", {}, box, ...name)];
    }
    return createElement("tr", { className: entry.share ? "" : "none" }, createElement("th", { scope: "row" }, ...head),
      createElement("td", { textContent: formatShare(entry.share) }), createElement("td", { textContent: formatArea(entry.area_m2) }));
  });
  $("legend").querySelector("tbody").replaceChildren(...rows);
  if (focused) $("legend").querySelector(`[data-label="${focused}"]`)?.focus();
}

function renderRamp(scene) {
  const look = ramps[state.layer];
  $("ramp").hidden = !look;
  if (!look) return;
  const [dark, bar, bright] = $("ramp").children;
  const [low, high] = scene.ranges[state.layer];
  dark.textContent = low;
  bar.style.background = `linear-gradient(90deg, ${look.colors.join(", ")})`;
  bright.textContent = look.brightest !== null && look.brightest < 1 ? `${high} and more` : high;
}

export function renderOpacity() {
  $("opacity").value = Math.round(state.opacity * 100);
  $("percent").textContent = `${$("opacity").value} %`;
}

/** Links to the files of a scene; they are asked for when it is chosen, since the list of all would be long. */
async function renderFiles(scene) {
  const shown = `${scene.id} ${scene.version}`;
  if ($("files").dataset.shown === shown) return;
  $("files").dataset.shown = shown;
  for (const list of [$("links"), $("files").querySelector("ul")]) list.replaceChildren();
  $("files").hidden = true;
  let files;
  try {
    ({ files } = await fetchJson(sceneUrl(scene)));
  } catch {
    delete $("files").dataset.shown; // what is wrong with the scene is said elsewhere
    return;
  }
  if ($("files").dataset.shown !== shown) return; // another scene was chosen meanwhile
  const chosen = Object.keys(LINKS).flatMap((name) => files.filter((file) => file.name === name));
  $("links").replaceChildren(...chosen.map((file) => createElement("li", {}, createLink(scene, file, LINKS[file.name]))));
  $("files").querySelector("summary").textContent = `All files (${files.length})`;
  $("files").querySelector("ul").replaceChildren(
    ...files.map((file) => createElement("li", {}, createLink(scene, file, file.name), createElement("span", { textContent: `${file.title} · ${formatSize(file.size)}` }))),
  );
  $("files").hidden = false;
}

function createLink(scene, { name, title, size }, text) {
  const link = createElement("a", { href: fileUrl(scene, name), textContent: text, title: `${title}, ${formatSize(size)}` });
  if (SHOWN_HERE.test(name)) Object.assign(link, { target: "_blank", rel: "noopener" });
  else link.download = "";
  return link;
}
