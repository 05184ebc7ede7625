// The border on the map: right of it is the layer, left of it the scene below or another period of the map.

import { $ } from "./elements.js";

const THUMB = 44; // pixels, as in the style sheet
let border = null; // 0 to 1 of the map's width

/** Layers of the map without content: what is drawn from one to the next is cut off at the border. */
export const LEFT = { id: "swipe-left", type: "custom", render: (gl) => cut(gl, true) };
export const RIGHT = { id: "swipe-right", type: "custom", render: (gl) => cut(gl, false) };
export const END = { id: "swipe-end", type: "custom", render: (gl) => gl.disable(gl.SCISSOR_TEST) };

function cut(gl, isLeft) {
  if (border === null) return;
  const place = Math.round(border * gl.drawingBufferWidth);
  gl.enable(gl.SCISSOR_TEST);
  gl.scissor(isLeft ? 0 : place, 0, isLeft ? place : gl.drawingBufferWidth - place, gl.drawingBufferHeight);
}

/** Draw the border at a part of the width that the slider has, or no border (null), between what two titles name. */
export function showBorder(map, part, [left, right]) {
  $("swipe").hidden = part === null;
  border = null;
  if (part !== null) {
    const width = $("swipe").clientWidth; // less than that of the map where the panel covers it
    const place = THUMB / 2 + part * (width - THUMB);
    border = place / map.getContainer().clientWidth;
    $("divider").style.left = `${place}px`;
    for (const [side, title] of [["firstElementChild", left], ["lastElementChild", right]]) $("divider")[side].textContent = title;
    $("divide").value = Math.round(part * 100);
    $("divide").setAttribute("aria-label", `Border between ${left} and ${right}`);
    $("divide").setAttribute("aria-valuetext", `${Math.round(part * 100)} % ${left}, the rest ${right}`);
  }
  map.triggerRepaint();
}

export function startSwipe(onMove) {
  $("divide").addEventListener("input", () => onMove($("divide").value / 100));
}
