// The list of scenes and maps: sorted, filtered by name, date and share of a class, a part of a long list at a time.

import { $, createElement, createSwatch, formatDate, formatShare } from "./elements.js";
import { describeCount, formatPeriod, getShown, groupScenes } from "./groups.js";
import { state } from "./state.js";

const PART = 200; // cards that are drawn at a time
const FIELDS = { sort: "sort", filter: "find", from: "from", to: "to", class: "class", least: "least" };
let entries = [];
let fresh = new Set(); // scenes that were published while the page was open
let limit = PART;
let choose = () => {};
let changed = () => {};

export function startList(onChoice, onChange) {
  [choose, changed] = [onChoice, onChange];
  $("find").addEventListener("submit", (event) => event.preventDefault());
  for (const [id, name] of Object.entries(FIELDS)) {
    $(id).addEventListener("input", () => applyFields(() => (state.find[name] = $(id).value)));
  }
  $("clear").addEventListener("click", () => {
    applyFields(() => Object.assign(state.find, { find: "", from: "", to: "", class: "", least: "" }));
    $("filter").focus();
  });
  $("next").addEventListener("click", () => {
    const first = limit;
    limit += PART;
    renderList();
    $("scenes").children[first]?.querySelector("button").focus();
  });
}

function applyFields(change) {
  change();
  limit = PART;
  renderFields();
  renderList();
  changed();
}

/** Show a list, with the fields as the state has them. */
export function setScenes(scenes, published = []) {
  entries = groupScenes(scenes);
  fresh = new Set([...fresh, ...published]);
  const names = new Set(scenes.flatMap((scene) => (scene.classes ?? []).filter((entry) => entry.share > 0).map((entry) => entry.name)));
  const classes = [...names].sort((a, b) => a.localeCompare(b));
  fill($("sort"), [["", "by name"], ["newest", "newest first"], ["oldest", "oldest first"], ...classes.map((name) => [`most:${name}`, `most ${name}`])]);
  fill($("class"), [["", "any"], ...classes.map((name) => [name, name])]);
  $("find").hidden = entries.length < 2;
  renderFields();
  renderList();
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => createElement("option", { value, textContent: text })));
}

export function renderFields() {
  for (const [id, name] of Object.entries(FIELDS)) if ($(id).value !== state.find[name]) $(id).value = state.find[name];
  const { from, to, class: name } = state.find;
  if (from || to || name) $("more").open = true;
  $("least").disabled = !name;
}

/** Whether a scene, or any period of a map, is asked for. */
const isWanted = (entry) => entry.scenes.some((scene) => isWantedScene(entry, scene));

const shareOf = (scene, name) => scene.classes?.find((entry) => entry.name === name)?.share ?? 0;

function isWantedScene(entry, scene) {
  const { find, from, to, class: name, least } = state.find;
  const [first, last] = [scene.date, scene.last_date ?? scene.date].map((time) => time?.slice(0, 10));
  if ((from && !(last >= from)) || (to && !(first <= to))) return false;
  if (name && !(shareOf(scene, name) > 0 && shareOf(scene, name) * 100 >= Number(least))) return false;
  const period = scene.map ? ["map", formatPeriod(scene.period)] : [];
  const words = [entry.title, scene.id, ...period, scene.date ?? "", ...(scene.classes ?? []).filter((entry) => entry.share > 0).map((entry) => entry.name)];
  return words.join(" ").toLowerCase().includes(find.trim().toLowerCase());
}

/** Compare two entries by what is shown of them, in time by the latest period; those without a date or a share come last, and of equal ones the names decide. */
function compare(one, other) {
  const order = state.find.sort;
  if (order.startsWith("most:")) return shareOf(getShown(other), order.slice(5)) - shareOf(getShown(one), order.slice(5));
  const [a, b] = [one.scenes.at(-1), other.scenes.at(-1)];
  if (!order || !a.date || !b.date) return order ? Number(!a.date) - Number(!b.date) : 0;
  const later = a.date < b.date ? -1 : a.date > b.date ? 1 : 0;
  return order === "newest" ? -later : later;
}

export function renderList() {
  const kept = entries.filter(isWanted);
  kept.sort(compare);
  const shown = kept.slice(0, limit);
  const focused = document.activeElement?.dataset?.key;
  $("scenes").replaceChildren(...shown.map(createCard));
  if (focused) [...$("scenes").querySelectorAll("button")].find((button) => button.dataset.key === focused)?.focus();
  $("next").hidden = shown.length === kept.length;
  $("next").textContent = `Show more of ${describeCount(kept)}`;
  const isFiltered = kept.length < entries.length;
  const text = isFiltered ? `${kept.length.toLocaleString("en-GB")} of ${describeCount(entries)}` : "";
  if ($("count").firstChild.textContent !== text) $("count").firstChild.textContent = text;
  $("clear").hidden = !isFiltered;
  markChosenCard();
}

/** Name the files that could not be segmented, below the scenes. */
export function renderRejected(rejected) {
  $("rejected").hidden = !rejected.length;
  const cards = rejected.map(({ name, reason }) => createElement("li", { textContent: `${name}: ${reason}` }));
  $("rejected").replaceChildren(createElement("summary", { textContent: `${rejected.length} not segmented` }), createElement("ul", {}, ...cards));
}

export function markChosenCard() {
  for (const button of $("scenes").querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.dataset.scene === state.scene));
  }
}

export function revealChosenCard() {
  $("scenes").querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" });
}

function createCard(entry) {
  const scene = getShown(entry);
  const name = createElement("span", { className: "name", textContent: entry.title });
  if (entry.isMap) name.prepend(createElement("span", { className: "kind", textContent: "Map" }), " ");
  if (entry.scenes.some(({ id }) => fresh.has(id))) name.prepend(createElement("span", { className: "fresh", textContent: "new" }), " ");
  const button = createElement("button", { type: "button" }, name);
  Object.assign(button.dataset, { scene: scene.id, key: entry.key });
  if (scene.problem) {
    button.append(createElement("span", { className: "problem", textContent: scene.problem }));
    Object.assign(button, { disabled: true, title: scene.id });
    return createElement("li", {}, button);
  }
  const time = entry.isMap ? formatPeriods(entry, scene) : formatDate(scene);
  button.append(createElement("span", { className: "when", textContent: scene.bbox ? time : `${time} · not on the map` }));
  const there = scene.classes.filter((entry) => entry.share > 0).sort((a, b) => b.share - a.share);
  const captions = there.map((entry) => `${entry.name} ${formatShare(entry.share)}`);
  const bar = createElement("span", { className: "bar", ariaHidden: "true" });
  for (const [place, { color, share: part }] of there.entries()) {
    const piece = createElement("i", { title: captions[place] });
    Object.assign(piece.style, { background: color, flexGrow: part });
    bar.append(piece);
  }
  const words = there.map((entry, place) => createElement("span", {}, createSwatch(entry.color), captions[place], " "));
  button.title = [entry.title, ...(entry.isMap ? [formatPeriod(scene.period)] : []), ...captions].join("\n");
  button.append(bar, createElement("span", { className: "shares" }, ...words));
  button.addEventListener("click", () => choose(scene.id, true));
  return createElement("li", {}, button);
}

/** The period that is shown, and which there are. */
function formatPeriods({ scenes }, shown) {
  const title = formatPeriod(shown.period);
  return scenes.length < 2 ? title : `${title} · ${scenes.length} periods`;
}
