// The picker: one slider, and everything that follows from it. Choosing happens here, from numbers
// that the server gave once; networks themselves are only asked for when the slider rests.
import { Chart } from "/chart.js";
import { TryIt } from "/tryit.js";

const $ = (id) => document.getElementById(id);
const STEPS = 1000;
const REST = 150; // ms without a move, after which a network is asked
const state = { run: null, mode: "size", levels: [], at: 0, budget: 0, chosen: null };
let chart, tryIt, resting, saying;

const GONE = "The server does not answer; start it again with: widthwise serve RUN";

// An answer, or an error with its sentence. Where the server is busy, it is asked again.
export async function ask(path, options, tries = 5) {
  let response, data;
  try {
    response = await fetch(path, options);
    if (response.status === 429 && tries > 1) {
      const wait = 1000 * Number(response.headers.get("Retry-After") ?? 1);
      await new Promise((done) => { setTimeout(done, wait); });
      return await ask(path, options, tries - 1);
    }
    data = await response.json();
  } catch (error) {
    if (error.name === "AbortError" || response?.status === 429) throw error;
    throw new Error(GONE);
  }
  if (!response.ok) throw new Error(data.error);
  return data;
}

// Bytes for people, in three figures, as the server writes them.
const FORMS = { safetensors: "safetensors", onnx: "ONNX" };

export function formatSize(bytes) {
  if (bytes < 1000) return `${Math.round(bytes)} B`;
  let [value, unit] = [bytes / 1000, "kB"];
  for (const larger of ["MB", "GB", "TB"]) {
    if (value < 999.5) break;
    [value, unit] = [value / 1000, larger];
  }
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
}

const three = (value) => Number(value.toPrecision(3));
const better = (a, b) => (state.run.higher_is_better ? a.metric - b.metric : b.metric - a.metric);
const quality = (value) => (state.run.is_share ? `${(100 * value).toFixed(2)} %` : String(Number(value.toPrecision(4))));

// How each mode orders what can be chosen. cost: what the slider limits.
const MODES = {
  size: { cost: (c) => c.bytes, show: formatSize, title: "The best that fits" },
  time: { cost: (c) => c.latency_ms, show: (v) => `${three(v)} ms`, title: "The best that is as fast" },
  metric: { show: quality, title: "The smallest that is as good" },
};

// What can be chosen: as for `widthwise cut`, networks of the model's class where there are any.
const offered = () => {
  const own = state.run.choices.filter((c) => c.own_class !== false);
  return $("own-class").checked && own.length ? own : state.run.choices;
};

// The networks worth choosing, from the tightest limit to the loosest: [{limit, choice}].
function levels(mode) {
  const all = offered();
  const found = [];
  if (mode === "metric") {
    const small = [...all].sort((a, b) => a.bytes - b.bytes || better(b, a));
    for (const c of small) {
      if (!found.length || better(c, found.at(-1).choice) > 0) found.push({ limit: c.metric, choice: c });
    }
    return found;
  }
  const { cost } = MODES[mode];
  const order = all.filter((c) => cost(c) !== null)
    .sort((a, b) => cost(a) - cost(b) || better(b, a) || a.bytes - b.bytes);
  for (const c of order) {
    const last = found.at(-1)?.choice;
    // As `Frontier.pick`: among equals the one with fewest bytes.
    if (!last || better(c, last) > 0 || (better(c, last) === 0 && c.bytes < last.bytes)) {
      found.push({ limit: cost(c), choice: c });
    }
  }
  return found;
}

// What a limit allows: the last level that meets it, by halving.
function level(limit) {
  const steps = state.levels;
  const up = state.mode !== "metric" || state.run.higher_is_better;
  const meets = state.mode === "metric"
    ? (i) => (up ? steps[i].limit < limit : steps[i].limit > limit)
    : (i) => steps[i].limit <= limit;
  let [low, high] = [0, steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (meets(middle)) low = middle + 1;
    else high = middle;
  }
  // A limit on cost takes the last that meets it; one on the metric the first that is as good.
  return state.mode === "metric" ? Math.min(low, steps.length - 1) : Math.max(0, low - 1);
}

const label = () => (state.mode === "metric" && state.run.higher_is_better ? "At least" : "At most");

const range = () => {
  if (state.mode === "metric") return [state.levels[0].limit, state.levels.at(-1).limit];
  const costs = offered().map(MODES[state.mode].cost).filter((v) => v !== null);
  return [Math.min(...costs), Math.max(...costs)];
};

// Where the slider stands <-> the limit. Costs lie as in the chart above it; metrics are spread so
// that every network has as much room.
function limitAt(position) {
  const share = position / STEPS;
  const [low, high] = state.range;
  if (position <= 0) return low;
  if (position >= STEPS) return high;
  if (state.mode !== "metric") {
    const limit = low * (high / low) ** share;
    return Math.min(high, Math.max(low, three(limit)));
  }
  const at = share * (state.levels.length - 1);
  const i = Math.min(Math.floor(at), state.levels.length - 2);
  if (i < 0) return low;
  const [a, b] = [state.levels[i].limit, state.levels[i + 1].limit];
  return a + (at - i) * (b - a);
}

function positionOf(limit, index) {
  const [low, high] = state.range;
  if (state.mode === "metric") return (STEPS * index) / Math.max(1, state.levels.length - 1);
  return high > low ? (STEPS * Math.log(limit / low)) / Math.log(high / low) : STEPS;
}

function choose(limit, { moveSlider = false } = {}) {
  state.budget = limit;
  state.at = level(limit);
  if (moveSlider) $("slider").value = Math.round(positionOf(limit, state.at));
  const { choice } = state.levels[state.at];
  const mode = MODES[state.mode];
  $("budget").textContent = mode.show(limit);
  $("main").dataset.limit = limit;
  $("slider").setAttribute("aria-valuetext", `${label()} ${mode.show(limit)}: ${choice.size}, ${state.run.metric} ${choice.quality}`);
  chart.mark(place(choice), state.mode === "metric" ? { y: unit() * limit } : { x: limit });
  if (choice !== state.chosen) show(choice);
  clearTimeout(saying);
  saying = setTimeout(() => say(choice), 500);
}

function show(choice) {
  state.chosen = choice;
  $("main").dataset.choice = choice.id;
  $("size").textContent = choice.size;
  $("share").textContent = choice.share;
  $("quality").textContent = choice.quality;
  $("latency").textContent = choice.latency || "…";
  $("runtime").textContent = choice.latency ? state.run.runtime : "";
  $("here").textContent = "";
  $("gives-up").textContent = choice.gives_up;
  const names = [choice.name, ...choice.names].filter(Boolean).map((n) => `“${n}”`).join(", ");
  const counts = choice.params === null ? "" : ` · ${choice.params.toLocaleString("en")} parameters`;
  const graph = choice.own_class === false ? " · a graph module" : "";
  $("details").textContent = `${names ? `${names} · ` : ""}${choice.made} · widths: ${choice.widths}${counts}${graph}`;
  for (const form of ["safetensors", "onnx"]) {
    $(form).href = `/api/runs/${state.run.id}/download/${choice.id}.${form}`;
    $(form).textContent = FORMS[form];
  }
  $("take-note").textContent = "";
  clearTimeout(resting);
  tryIt.wait();
  resting = setTimeout(() => settled(choice), REST);
}

function settled(choice) {
  tryIt.choose(choice);
  ask(`/api/runs/${state.run.id}/code/${choice.id}`).then((code) => {
    if (choice !== state.chosen) return;
    state.code = code;
    for (const [form, size] of Object.entries(code.sizes)) $(form).textContent = `${FORMS[form]} · ${size}`;
    showCode();
  }, (error) => { $("code").textContent = `# ${error.message}`; });
}

function showCode() {
  const form = document.querySelector("input[name=form]:checked").value;
  $("code").textContent = state.code ? state.code[form].trimEnd() : "";
}

// What one call took on this machine, measured once the network is there.
function timed(choice, { latency, full_latency, runtime }) {
  if (choice !== state.chosen) return;
  $("here").textContent = `Here, just now: ${latency} (${runtime}); the full network ${full_latency}.`;
  if (choice.latency) return;
  $("latency").textContent = latency;
  $("runtime").textContent = runtime;
}

// For those who listen: after the slider has rested, one sentence.
function say(choice) {
  $("said").textContent = `${choice.size}, ${choice.share}; ${state.run.metric} ${choice.quality}. ${choice.gives_up}`;
}

const unit = () => (state.run.is_share ? 100 : 1);
const place = (c) => ({
  x: state.mode === "time" ? c.latency_ms ?? state.range[1] : c.bytes, y: unit() * c.metric,
});

function draw() {
  const byTime = state.mode === "time";
  const shown = state.run.choices.filter((c) => !byTime || c.latency_ms !== null);
  const dots = shown.map((c) => ({ ...place(c), title: `${c.size}: ${c.quality}${c.own_class === false ? ", a graph module" : ""}` }));
  const xs = dots.map((d) => d.x);
  const stored = shown.some((c) => c.name || c.names.length);
  $("key-ring").hidden = byTime || !state.run.tried.length;
  $("key-pick").hidden = !stored;
  const line = state.levels.map(({ choice }) => place(choice));
  chart.draw({
    dots, line, xRange: [Math.min(...xs), Math.max(...xs)], higher: state.run.higher_is_better,
    rings: byTime ? [] : state.run.tried.map((t) => ({ x: t.bytes, y: unit() * t.metric, title: t.text })),
    picks: shown.filter((c) => c.name || c.names.length).map((c) => ({ ...place(c), name: [c.name, ...c.names].filter(Boolean).join(", ") })),
    yTick: (v) => `${Number(v.toPrecision(4))}${state.run.is_share ? " %" : ""}`,
    xTick: byTime ? (v) => `${three(v)} ms` : (v) => formatSize(v).replace(/\.0+(?= )/, "").replace(/(\.\d*?)0+(?= )/, "$1"),
  });
  const best = shown.reduce((a, b) => (better(b, a) > 0 ? b : a));
  $("chart").setAttribute("aria-label", `${state.run.metric} of ${shown.length} networks against ${byTime ? "time" : "size"}; the best has ${best.quality} at ${best.size}.`);
}

function setMode(mode) {
  const keep = state.chosen;
  state.mode = mode;
  state.levels = levels(mode);
  state.range = range();
  $("budget-label").textContent = label();
  $("chosen-title").textContent = MODES[mode].title;
  draw();
  // The same network as before where the mode has it, else the nearest in size.
  let at = state.levels.findIndex((r) => r.choice === keep);
  if (at < 0) {
    const size = keep ? keep.bytes : Math.max(...offered().map((c) => c.bytes)) / 4;
    const gap = (r) => Math.abs(Math.log(r.choice.bytes / size));
    at = state.levels.reduce((best, r, i) => (gap(r) < gap(state.levels[best]) ? i : best), 0);
  }
  choose(state.levels[at].limit, { moveSlider: true });
}

function keys(event) {
  const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
  if (!by) return;
  event.preventDefault();
  const at = Math.min(state.levels.length - 1, Math.max(0, state.at + by));
  choose(state.levels[at].limit, { moveSlider: true });
}

async function download(event) {
  event.preventDefault();
  const link = event.currentTarget;
  const { href } = link;
  $("take-note").textContent = "Cutting the network, and checking the file …";
  // One byte makes the file, and says in a sentence what is wrong, where something is.
  const response = await fetch(href, { headers: { Range: "bytes=0-0" } }).catch(() => null);
  if (!response?.ok) {
    const said = response && (await response.json().catch(() => null));
    $("take-note").textContent = said?.error ?? GONE;
    return;
  }
  $("take-note").textContent = "Checked: what is read back gives the same numbers.";
  const anchor = Object.assign(document.createElement("a"), { href, download: "" });
  anchor.click();
}

async function open(id) {
  const run = await ask(`/api/runs/${id}`);
  state.run = run;
  state.chosen = null;
  document.title = run.problem ? `${run.name}: nothing to choose yet` : run.title;
  $("title").textContent = run.problem ? run.name : run.title;
  fail(run.problem);
  if (run.problem) return;
  $("main").hidden = false;
  $("metric").textContent = run.metric;
  $("metric-mode").textContent = run.metric[0].toUpperCase() + run.metric.slice(1);
  $("split").textContent = `${run.split} split`;
  $("notes").replaceChildren(...run.notes.map((n) => Object.assign(document.createElement("li"), { textContent: n })));
  $("class-part").hidden = !run.choices.some((c) => c.own_class) || run.choices.every((c) => c.own_class !== false);
  const timed = run.choices.some((c) => c.latency_ms !== null);
  const time = document.querySelector("input[value=time]");
  time.disabled = !timed;
  $("time-mode").title = timed ? "" : "Time was not measured; sweep again without --no-latency.";
  if (!timed && time.checked) document.querySelector("input[value=size]").checked = true;
  tryIt.open(run);
  setMode(document.querySelector("input[name=mode]:checked").value);
}

function fail(sentence) {
  $("problem").hidden = !sentence;
  $("problem").textContent = sentence;
  if (sentence) $("main").hidden = true;
}

function listen() {
  $("slider").addEventListener("input", (event) => choose(limitAt(Number(event.target.value))));
  $("slider").addEventListener("keydown", keys);
  $("modes").addEventListener("change", (event) => setMode(event.target.value));
  $("own-class").addEventListener("change", () => setMode(state.mode));
  $("forms").addEventListener("change", showCode);
  for (const form of ["safetensors", "onnx"]) $(form).addEventListener("click", download);
  $("copy").addEventListener("click", async () => {
    const done = await navigator.clipboard?.writeText($("code").textContent).then(() => true, () => false);
    $("copy").textContent = done ? "Copied" : "Select it and copy";
    setTimeout(() => { $("copy").textContent = "Copy the code"; }, 1500);
  });
  $("run").addEventListener("change", (event) => { location.hash = `run=${event.target.value}`; });
  window.addEventListener("hashchange", start);
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width || !state.chosen) return;
    width = window.innerWidth;
    draw();
    choose(state.budget);
  });
}

async function start() {
  try {
    const runs = await ask("/api/runs");
    const wanted = Number(new URLSearchParams(location.hash.slice(1)).get("run") ?? 0);
    const id = runs.some((r) => r.id === wanted) ? wanted : 0;
    $("runs").hidden = runs.length < 2;
    $("run").replaceChildren(...runs.map((r) => new Option(r.problem ? `${r.name} (not ready)` : r.name, r.id, false, r.id === id)));
    await open(id);
  } catch (error) {
    fail(error.message);
  }
  document.documentElement.dataset.ready = "yes";
}

chart = new Chart($("chart"), {
  onPoint: (share) => {
    if (state.mode !== "metric") choose(limitAt(Math.round(STEPS * share)), { moveSlider: true });
  },
});
tryIt = new TryIt(ask, timed);
listen();
start();
