// Ask again and again whether something was published, as long as somebody looks at the page.

const EVERY_MS = 5000;
const SHARE = 50; // or so many times as long as it takes to answer that there is no news: many pages wait for a slow server
const MOST_MS = 60_000;
const BUSY = 503;

/** Call `onScenes` with the list of scenes, now and whenever it has changed; `onError` with a text where that fails. */
export function watchScenes(url, onScenes, onError) {
  let tag = null;
  let isLost = false;
  let isAsking = false;
  let timer = null;
  let wait = EVERY_MS;

  async function ask() {
    const start = performance.now();
    const response = await fetch(url); // the browser sends If-None-Match by itself
    const isNews = !tag || response.headers.get("ETag") !== tag;
    wait = isNews ? EVERY_MS : Math.min(MOST_MS, Math.max(EVERY_MS, SHARE * (performance.now() - start)));
    if (response.status === BUSY && tag) {
      wait = MOST_MS;
      return;
    }
    const body = isNews ? await response.json() : null;
    if (!response.ok) throw new Error(typeof body?.detail === "string" ? body.detail : response.statusText);
    if (isLost) onError(null);
    isLost = false;
    if (isNews) await onScenes(body);
    tag = response.headers.get("ETag");
  }

  async function askIfSeen() {
    if (isAsking) return;
    isAsking = true;
    clearTimeout(timer);
    try {
      if (!document.hidden) await ask();
    } catch (error) {
      isLost = true;
      onError(error instanceof TypeError ? "The server does not answer. The page goes on when it does." : error.message);
    } finally {
      isAsking = false;
      timer = setTimeout(askIfSeen, wait);
    }
  }

  askIfSeen();
  for (const event of ["focus", "online"]) window.addEventListener(event, askIfSeen);
  document.addEventListener("visibilitychange", askIfSeen);
}
