// What is under a click, or under the crosshair of the keyboard.

import { $, announce, createElement, createSwatch, fetchJson, formatCount, formatProbability, sceneUrl, showMessage } from "./elements.js";
import { formatPeriod } from "./groups.js";
import { clearHistory, showHistory } from "./history.js";
import * as maps from "./map.js";

let popup = null;
let asked = null; // the place whose pixel is told
let turns = 0;

/** The place whose pixel is told, or null. */
export const getAsked = () => asked;

/** Tell the class of a scene's pixel, and of a map what it was in other periods. */
export async function identifyPixel(map, scene, lngLat) {
  const turn = ++turns;
  const { lng, lat } = lngLat.wrap();
  asked = lngLat;
  if (!scene.map) clearHistory();
  try {
    const [found, past] = await Promise.all([
      fetchJson(`${sceneUrl(scene, "pixel")}?lon=${lng}&lat=${lat}`),
      scene.map ? showHistory(scene, lngLat) : "",
    ]);
    if (turn === turns) announce([showAnswer(map, scene, found, lngLat), ...(past ? [past] : [])].join("; "));
  } catch (error) {
    if (turn !== turns) return;
    closePopup(map);
    showMessage(error.message);
  }
}

/** Show the answer above the pixel, and return what a screen reader is to say. */
function showAnswer(map, scene, found, lngLat) {
  removePopup();
  showMessage(null);
  const nothing = scene.map ? "not seen" : "no data";
  const color = Object.fromEntries(scene.classes.map((entry) => [entry.name, entry.color]));
  const box = createElement("div", { className: "answer" });
  const heading = createElement("div", { className: "what" });
  if (found.class) heading.append(createSwatch(color[found.class]));
  heading.append(found.class ?? nothing);
  box.append(heading);
  const least = scene.map ? 0.005 : 0; // of a map the panel tells more, and the popup leaves room for the map
  const odds = Object.entries(found.probabilities ?? {}).filter(([, value]) => value !== null && value >= least).sort((a, b) => b[1] - a[1]);
  if (odds.length) box.append(createBars(odds, color));
  const also = ["confidence", "disagreement", "agreement"].filter((name) => typeof found[name] === "number")
    .map((name) => `${name} ${found[name].toFixed(2)}`);
  if (typeof found.observations === "number") also.push(formatCount(found.observations, "observation"));
  if (found.last_date) also.push(`last ${found.last_date}`);
  if (also.length && !scene.map) box.append(createElement("div", { className: "where", textContent: also.join(" · ") }));
  const place = `${lngLat.wrap().lat.toFixed(5)}°, ${lngLat.wrap().lng.toFixed(5)}° · row ${found.row}, col ${found.col}`;
  box.append(createElement("div", { className: "where" }, place, createElement("br"), scene.map ? `${scene.map}, ${formatPeriod(scene.period)}` : scene.id));
  maps.markPixel(map, found.outline);
  // Beside the point where the panel would cover what stands above it.
  const covered = maps.isCovered($("panel")) && map.project(lngLat).x + map.getContainer().getBoundingClientRect().x + 160 > $("panel").offsetLeft;
  popup = new maplibregl.Popup({ maxWidth: "300px", focusAfterOpen: false, closeOnClick: false, ...(covered && { anchor: "right" }) })
    .setLngLat(lngLat).setDOMContent(box).addTo(map);
  const own = popup;
  popup.on("close", () => { if (popup === own) closePopup(map); });
  const shares = odds.map(([name, value]) => `${name} ${formatProbability(value)}`);
  return [found.class ?? nothing, ...shares, `row ${found.row}, column ${found.col}`].join(", ");
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

function removePopup() {
  const old = popup;
  popup = null;
  old?.remove();
}

export function closePopup(map) {
  turns += 1;
  asked = null;
  removePopup();
  clearHistory();
  maps.markPixel(map, null);
}
