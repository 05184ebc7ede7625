// Words, numbers, elements, requests: what the other modules write with.

export const $ = (id) => document.getElementById(id);

const formatNumber = (value) => value.toLocaleString("en-GB", { maximumSignificantDigits: 3 });

export const formatCount = (count, noun) => `${count.toLocaleString("en-GB")} ${noun}${count === 1 ? "" : "s"}`;

export function formatArea(m2) {
  if (m2 === null) return "";
  if (m2 >= 1e6) return `${formatNumber(m2 / 1e6)} km²`;
  if (m2 >= 1e4) return `${formatNumber(m2 / 1e4)} ha`;
  return `${formatNumber(m2)} m²`;
}

export function formatShare(part) {
  return part > 0 && part < 0.0005 ? "< 0.1 %" : `${(part * 100).toFixed(1)} %`;
}

// Probabilities are known to 0.004, and do not sum to one more exactly than that.
export function formatProbability(part) {
  return part < 0.005 ? "< 1 %" : part > 0.995 ? "> 99 %" : `${Math.round(part * 100)} %`;
}

export function formatSize(bytes) {
  const [size, unit] = bytes < 1e6 ? [bytes / 1e3, "kB"] : bytes < 1e9 ? [bytes / 1e6, "MB"] : [bytes / 1e9, "GB"];
  return `${size < 10 ? Math.max(0.1, size).toFixed(1) : Math.round(size)} ${unit}`;
}

export function formatDate(scene) {
  if (!scene.date) return "date unknown";
  const days = [scene.date, ...(scene.last_date ? [scene.last_date] : [])];
  const form = { day: "numeric", month: "long", year: "numeric", timeZone: "UTC" };
  return days.map((day) => new Date(day).toLocaleDateString("en-GB", form)).join(" – ");
}

// Text only: names come from files.
export function createElement(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function createSwatch(color) {
  const element = createElement("i", { className: "swatch" });
  element.style.background = color;
  return element;
}

export async function fetchJson(path) {
  const response = await fetch(path);
  const body = await response.json();
  if (!response.ok) throw new Error(typeof body.detail === "string" ? body.detail : response.statusText);
  return body;
}

export const sceneUrl = (scene, ...parts) => ["scenes", scene.id, ...parts].map(encodeURIComponent).join("/");

export const fileUrl = (scene, name) => ["stac", scene.id, name].map(encodeURIComponent).join("/");

export function showMessage(text) {
  $("message").textContent = text ?? "";
  $("message").hidden = !text;
}

/** Say something to those who do not see the page. */
export function announce(text) {
  $("status").textContent = text;
}
