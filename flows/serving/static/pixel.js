// What is under a click, or under the crosshair of the keyboard.

import { $, announce, createElement, createSwatch, fetchJson, formatProbability, sceneUrl, showMessage } from "./elements.js";
import * as maps from "./map.js";

let popup = null;

/** Tell the class of a scene's pixel. */
export async function identifyPixel(map, scene, lngLat) {
  const { lng, lat } = lngLat.wrap();
  try {
    const found = await fetchJson(`${sceneUrl(scene, "pixel")}?lon=${lng}&lat=${lat}`);
    showAnswer(map, scene, found, lngLat);
  } catch (error) {
    closePopup(map);
    showMessage(error.message);
  }
}

function showAnswer(map, scene, found, lngLat) {
  closePopup(map);
  showMessage(null);
  const color = Object.fromEntries(scene.classes.map((entry) => [entry.name, entry.color]));
  const box = createElement("div", { className: "answer" });
  const heading = createElement("div", { className: "what" });
  if (found.class) heading.append(createSwatch(color[found.class]));
  heading.append(found.class ?? "no data");
  box.append(heading);
  const odds = Object.entries(found.probabilities ?? {}).filter(([, value]) => value !== null).sort((a, b) => b[1] - a[1]);
  if (odds.length) box.append(createBars(odds, color));
  const also = ["confidence", "disagreement", "agreement"].filter((name) => typeof found[name] === "number")
    .map((name) => `${name} ${found[name].toFixed(2)}`);
  if (typeof found.observations === "number") also.push(`${found.observations} observations`);
  if (found.last_date) also.push(`last ${found.last_date}`);
  if (also.length) box.append(createElement("div", { className: "where", textContent: also.join(" · ") }));
  const place = `${lngLat.wrap().lat.toFixed(5)}°, ${lngLat.wrap().lng.toFixed(5)}° · row ${found.row}, col ${found.col}`;
  box.append(createElement("div", { className: "where" }, place, createElement("br"), scene.id));
  maps.markPixel(map, found.outline);
  // Beside the point where the panel would cover what stands above it.
  const covered = maps.isCovered($("panel")) && map.project(lngLat).x + map.getContainer().getBoundingClientRect().x + 160 > $("panel").offsetLeft;
  popup = new maplibregl.Popup({ maxWidth: "300px", focusAfterOpen: false, ...(covered && { anchor: "right" }) })
    .setLngLat(lngLat).setDOMContent(box).addTo(map);
  popup.on("close", () => maps.markPixel(map, null));
  const shares = odds.map(([name, value]) => `${name} ${formatProbability(value)}`);
  announce([found.class ?? "no data", ...shares, `row ${found.row}, column ${found.col}`].join(", "));
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

export function closePopup(map) {
  popup?.remove();
  popup = null;
  maps.markPixel(map, null);
}
