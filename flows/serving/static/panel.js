// The panel of the chosen scene: its files, what is drawn of it, its classes.

import { $, createElement, createSwatch, fetchJson, fileUrl, formatArea, formatDate, formatShare, formatSize, sceneUrl } from "./elements.js";
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
  $("compare-label").hidden = !scene.layers.includes("overview");
  $("compare").checked = state.swipe !== null;
  for (const id of ["polygons-label", "polygons-note"]) $(id).hidden = !scene.polygons;
  $("polygons").checked = state.polygons;
  renderLegend(scene);
  renderRamp(scene);
  renderOpacity();
  renderFiles(scene);
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
