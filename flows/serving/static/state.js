// What the page shows, and the address that says so:
// #scene=…&view=lon,lat,zoom&opacity=0.7&layer=…&hidden=1,3&swipe=0.5&beside=…&polygons=1&basemap=0&sort=…&find=…&from=…&to=…&class=…&least=…

export const state = {
  scene: null,
  layer: "segmentation",
  opacity: 0.7,
  polygons: false,
  hidden: new Set(), // labels of classes that are not drawn
  swipe: null, // where the border between scene and layer is, 0 to 1; null: there is none
  beside: null, // the period of a map that is left of the border; null: the one before
  basemap: true,
  find: { sort: "", find: "", from: "", to: "", class: "", least: "" },
};

let view = ""; // as the address has it

export function writeAddress(map) {
  const { lng, lat } = map.getCenter();
  view = [lng.toFixed(5), lat.toFixed(5), map.getZoom().toFixed(2)].join(",");
  history.replaceState(null, "", formatSceneAddress(state.scene));
}

/** The address that shows another scene as this one is shown. */
export function formatSceneAddress(scene) {
  const parts = new URLSearchParams();
  if (scene) parts.set("scene", scene);
  parts.set("view", view);
  parts.set("opacity", state.opacity);
  if (state.layer && state.layer !== "segmentation") parts.set("layer", state.layer);
  if (state.hidden.size) parts.set("hidden", [...state.hidden].sort((a, b) => a - b).join(","));
  if (state.swipe !== null) parts.set("swipe", state.swipe);
  if (state.swipe !== null && state.beside) parts.set("beside", state.beside);
  if (state.polygons) parts.set("polygons", "1");
  if (!state.basemap) parts.set("basemap", "0");
  for (const [name, value] of Object.entries(state.find)) if (value) parts.set(name, value);
  return `#${parts.toString().replaceAll("%2C", ",")}`;
}

/** Take the state from the address; return scene and view, which are null where it has none. */
export function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const fraction = (name) => {
    const value = Number.parseFloat(parts.get(name));
    return value >= 0 && value <= 1 ? value : null;
  };
  state.opacity = fraction("opacity") ?? state.opacity;
  state.layer = parts.get("layer") ?? "segmentation";
  state.hidden = new Set((parts.get("hidden") ?? "").split(",").filter((text) => /^\d{1,3}$/.test(text)).map(Number));
  state.swipe = fraction("swipe");
  state.beside = parts.get("beside");
  state.polygons = parts.get("polygons") === "1";
  state.basemap = parts.get("basemap") !== "0";
  for (const name of Object.keys(state.find)) state.find[name] = parts.get(name) ?? "";
  const [lng, lat, zoom] = (parts.get("view") ?? "").split(",").map(Number);
  const placed = Math.abs(lng) <= 540 && Math.abs(lat) <= 90 && zoom >= 0;
  return { scene: parts.get("scene"), view: placed ? { center: [lng, lat], zoom } : null };
}
