// The border between scene and layer: left of it the layer is not drawn.

import { $ } from "./elements.js";

const THUMB = 44; // pixels, as in the style sheet
let border = null; // 0 to 1 of the map's width

/** Two layers of the map without content: what is drawn between them is cut off at the border. */
export const BEGIN = { id: "swipe-begin", type: "custom", render: (gl) => cut(gl) };
export const END = { id: "swipe-end", type: "custom", render: (gl) => gl.disable(gl.SCISSOR_TEST) };

function cut(gl) {
  if (border === null) return;
  const left = Math.round(border * gl.drawingBufferWidth);
  gl.enable(gl.SCISSOR_TEST);
  gl.scissor(left, 0, gl.drawingBufferWidth - left, gl.drawingBufferHeight);
}

/** Draw the border at a part of the width that the slider has, or no border (null). */
export function showBorder(map, part, title) {
  $("swipe").hidden = part === null;
  border = null;
  if (part !== null) {
    const width = $("swipe").clientWidth; // less than that of the map where the panel covers it
    const place = THUMB / 2 + part * (width - THUMB);
    border = place / map.getContainer().clientWidth;
    $("divider").style.left = `${place}px`;
    $("divider").lastElementChild.textContent = title;
    $("divide").value = Math.round(part * 100);
    $("divide").setAttribute("aria-valuetext", `${Math.round(part * 100)} % scene, the rest ${title.toLowerCase()}`);
  }
  map.triggerRepaint();
}

export function startSwipe(onMove) {
  $("divide").addEventListener("input", () => onMove($("divide").value / 100));
}
