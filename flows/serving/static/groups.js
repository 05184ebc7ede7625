// Entries of the list: scenes, and maps, whose periods are one entry. One period of each map is shown.

import { formatCount } from "./elements.js";

let entries = [];
const shown = new Map(); // name of a map → id of the period that was last shown

/** Make entries of a list of scenes, maps first: `key`, `isMap`, `title`, and `scenes`, of a map in order of time. */
export function groupScenes(scenes) {
  const maps = new Map();
  entries = [];
  for (const scene of scenes) {
    if (!scene.map) {
      entries.push({ key: `scene ${scene.id}`, isMap: false, title: scene.id, scenes: [scene] });
      continue;
    }
    if (!maps.has(scene.map)) {
      const entry = { key: `map ${scene.map}`, isMap: true, title: scene.map, scenes: [] };
      maps.set(scene.map, entry);
      entries.push(entry);
    }
    maps.get(scene.map).scenes.push(scene);
  }
  for (const { scenes: periods } of maps.values()) periods.sort((a, b) => order(a.date ?? "", b.date ?? "") || order(a.id, b.id));
  entries.sort((a, b) => Number(b.isMap) - Number(a.isMap));
  return entries;
}

const order = (a, b) => Number(a > b) - Number(a < b);

/** What is shown of an entry: the scene, or a period of the map, at first the latest. */
export const getShown = (entry) => entry.scenes.find((scene) => scene.id === shown.get(entry.title)) ?? entry.scenes.at(-1);

export function rememberShown(scene) {
  if (scene.map) shown.set(scene.map, scene.id);
}

/** The scenes and of each map the period that is shown. */
export const listShown = () => entries.map(getShown);

/** All periods of the map that a scene is a period of; none where it is of no map. */
export const getPeriods = (scene) => (scene?.map && entries.find((entry) => entry.isMap && entry.title === scene.map)?.scenes) || [];

/** What is shown at first: of the first entry that is whole. */
export const findFirst = () => listShown().find((scene) => !scene.problem);

/** The map of this name: what is shown of it, or nothing. */
export function findMap(name) {
  const entry = entries.find((other) => other.isMap && other.title === name);
  return entry && getShown(entry);
}

/** Such as "12 scenes and 2 maps". */
export function describeCount(list) {
  const maps = list.filter((entry) => entry.isMap).length;
  const scenes = list.length - maps;
  return [...(scenes || !maps ? [formatCount(scenes, "scene")] : []), ...(maps ? [formatCount(maps, "map")] : [])].join(" and ");
}

const MONTHS = Array.from({ length: 12 }, (_, month) => new Date(Date.UTC(2000, month)).toLocaleDateString("en-GB", { month: "long", timeZone: "UTC" }));
const SEASONS = { DJF: [11, 1], MAM: [2, 4], JJA: [5, 7], SON: [8, 10] };

/** The name of a period for people: 2024-07 is July 2024, or Jul 2024 in short. A name of another form stays as it is. */
export function formatPeriod(name, isShort = false) {
  if (name === "all") return "All dates";
  const [year, rest = ""] = [name.slice(0, 4), name.slice(5)];
  if (/^\d{4}-(0[1-9]|1[0-2])$/.test(name)) return `${isShort ? MONTHS[rest - 1].slice(0, 3) : MONTHS[rest - 1]} ${year}`;
  if (/^\d{4}-(DJF|MAM|JJA|SON)$/.test(name)) {
    const [first, last] = SEASONS[rest].map((month) => MONTHS[month].slice(0, 3));
    return rest === "DJF" ? `${first} ${year - 1} – ${last} ${year}` : `${first} – ${last} ${year}`;
  }
  return /^[\d-]{10}_[\d-]{10}$/.test(name) ? name.replace("_", " – ") : name;
}
