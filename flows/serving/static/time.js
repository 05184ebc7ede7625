// The slider over the periods of a map.

import { $, createElement } from "./elements.js";
import { formatPeriod } from "./groups.js";

const MOST_MARKS = 24; // periods that have a mark below the slider

let periods = [];

/** Call `onChoice` with the id of the period that is chosen. */
export function startTime(onChoice) {
  const choose = (place) => {
    if (periods[place]) onChoice(periods[place].id);
  };
  $("period").addEventListener("input", () => choose(Number($("period").value)));
  $("earlier").addEventListener("click", () => choose(Number($("period").value) - 1));
  $("later").addEventListener("click", () => choose(Number($("period").value) + 1));
}

/** Show which of the periods of a map a scene is; nothing where there is only one. */
export function renderTime(scene, list) {
  periods = list;
  $("time").hidden = periods.length < 2;
  if ($("time").hidden) return;
  const place = periods.indexOf(scene);
  $("period").max = periods.length - 1;
  $("period").value = place;
  const marks = periods.length > MOST_MARKS ? [] : periods.map((_, mark) => createElement("option", { value: mark }));
  $("period-marks").replaceChildren(...marks);
  const title = formatPeriod(scene.period);
  $("period").setAttribute("aria-valuetext", `${title}, ${place + 1} of ${periods.length}`);
  $("period").setAttribute("aria-label", `Period of ${scene.map}`);
  $("period-name").textContent = title;
  const [first, last] = $("period-ends").children;
  first.textContent = formatPeriod(periods[0].period);
  last.textContent = formatPeriod(periods.at(-1).period);
  for (const [id, end] of [["earlier", 0], ["later", periods.length - 1]]) $(id).setAttribute("aria-disabled", String(place === end));
}
