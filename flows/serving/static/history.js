// What a pixel of a map was in each period, and which scenes say so; in the panel.

import { $, createElement, createSwatch, fetchJson, formatDate } from "./elements.js";
import { formatPeriod } from "./groups.js";
import { formatSceneAddress } from "./state.js";

let asked = null; // { scene, lng, lat }
let turns = 0;
let choose = () => {};

/** Call `onChoice` with the id of a period or scene that is chosen, and the place that was asked about. */
export function startHistory(onChoice) {
  choose = onChoice;
}

export function clearHistory() {
  turns += 1;
  asked = null;
  $("history").hidden = true;
}

const mapUrl = (scene, what, query) => `maps/${encodeURIComponent(scene.map)}/${what}?${new URLSearchParams(query)}`;

/** Ask what a pixel of the map of a period was in all of them, and show it; return what a screen reader is to say. */
export async function showHistory(scene, lngLat) {
  const turn = ++turns;
  const { lng, lat } = lngLat.wrap();
  asked = { scene, lng, lat };
  const place = { lon: lng, lat };
  const [history, sources] = await Promise.all([
    fetchJson(mapUrl(scene, "history", place)),
    fetchJson(mapUrl(scene, "scenes", { period: scene.period, ...place })).catch((error) => ({ problem: error.message })),
  ]);
  if (turn !== turns) return "";
  const isNew = $("history").hidden;
  renderPeriods(scene, history, place);
  renderSources(scene, sources, place);
  $("history").hidden = false;
  if (isNew) $("history").scrollIntoView({ block: "nearest" });
  const count = (list, noun) => `${list} ${noun}${list === 1 ? "" : "s"}`;
  return `history of ${count(history.count, "period")}${sources.problem ? "" : `, from ${count(sources.scenes.length, "scene")}`} in the panel`;
}

function renderPeriods(scene, history, place) {
  const colors = findColors(scene);
  const isFocused = $("periods").contains(document.activeElement) && document.activeElement.dataset.scene;
  const rows = history.periods.map((period) => createRow(scene, period, colors));
  $("periods").replaceChildren(...rows);
  if (isFocused) [...$("periods").querySelectorAll("button")].find((button) => button.dataset.scene === isFocused)?.focus();
  showMore($("periods-more"), history.next, "Show earlier periods", async (first) => {
    const more = await fetchJson(mapUrl(scene, "history", { ...place, first }));
    $("periods").append(...more.periods.map((period) => createRow(scene, period, colors)));
    return more.next;
  });
}

function createRow(scene, period, colors) {
  const button = createElement("button", { type: "button", textContent: formatPeriod(period.period, true) });
  button.dataset.scene = period.scene;
  button.addEventListener("click", () => choose(period.scene, asked));
  const head = createElement("th", { scope: "row" }, button);
  const row = createElement("tr", {}, head);
  if (period.scene === scene.id) button.setAttribute("aria-current", "true");
  if (period.problem) {
    row.append(createElement("td", { colSpan: 4, className: "problem", textContent: period.problem }));
    return row;
  }
  const label = createElement("td", {}, createElement("span", {}, ...(period.class ? [createSwatch(colors[period.value]), period.class] : ["not seen"])));
  const agreement = typeof period.agreement === "number" ? `${Math.round(period.agreement * 100)} %` : "–";
  row.append(label, ...[agreement, String(period.observations ?? "–"), formatDay(period)].map((textContent) => createElement("td", { textContent })));
  return row;
}

/** The day of the last observation; the year is left out where the name of the period has it. */
function formatDay({ last_date: day, period }) {
  if (!day) return "–";
  const year = period.startsWith(day.slice(0, 4)) ? {} : { year: "numeric" };
  return new Date(day).toLocaleDateString("en-GB", { day: "numeric", month: "short", ...year, timeZone: "UTC" });
}

function renderSources(scene, sources, place) {
  $("sources-title").textContent = `Scenes of this pixel, ${formatPeriod(scene.period)}`;
  if (sources.problem) {
    $("sources").replaceChildren(createElement("li", { className: "problem", textContent: sources.problem }));
    $("sources-more").hidden = true;
    return;
  }
  const colors = findColors(scene);
  const cards = sources.scenes.map((source) => createSource(source, colors));
  $("sources").replaceChildren(...(cards.length || sources.next ? cards : [createElement("li", { textContent: "No scene of this period shows it." })]));
  showMore($("sources-more"), sources.next, `Look at more of ${sources.count} scenes`, async (first) => {
    const more = await fetchJson(mapUrl(scene, "scenes", { period: scene.period, ...place, first }));
    $("sources").append(...more.scenes.map((source) => createSource(source, colors)));
    return more.next;
  });
}

const STATES = {
  replaced: "published again since the map was made", damaged: "is damaged", absent: "is not in this folder",
};

function createSource({ scene: id, start, end, state, value, class: name, counts }, colors) {
  const isThere = state === "current" || state === "replaced";
  const link = isThere ? createElement("a", { textContent: id, href: formatSceneAddress(id) }) : createElement("span", { textContent: id });
  if (isThere) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      choose(id, asked);
    });
  }
  const note = createElement("small", {}, formatDate({ date: start, last_date: end }));
  if (name) note.append(" · ", createSwatch(colors[value] ?? "#999999"), name, ...(counts ? [] : [", hides the ground"]));
  if (STATES[state]) note.append(` · ${STATES[state]}`);
  return createElement("li", {}, link, note);
}

const findColors = (scene) => Object.fromEntries(scene.classes.map((entry) => [entry.value, entry.color]));

/** A button that appends the next part of a list as long as there is one. */
function showMore(button, first, text, append) {
  button.hidden = first === null;
  button.textContent = text;
  const turn = turns;
  button.onclick = async () => {
    button.disabled = true;
    try {
      const next = await append(first);
      if (turn === turns) showMore(button, next, text, append);
    } catch {
      // what is wrong is said when somebody asks about the pixel again
    }
    button.disabled = false;
  };
}
