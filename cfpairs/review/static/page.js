"use strict";

const $ = (id) => document.getElementById(id);
const LEVELS = {
  good: "Good pairs", usable: "Usable pairs", needs_pairs: "More pairs needed", fix_pairs: "Pairs need mending",
  changes_label: "Pairs change the label", measuring: "Being measured",
};
const SAID = { keep: "Kept", drop: "Dropped" };
const FILTERS = {
  "by-set": (pair) => [pair.pair_set],
  "by-flag": (pair) => (pair.flags.length ? pair.flags.map((f) => f.flag) : ["no flag"]),
  "by-cell": (pair) => [`${pair.label}: ${pair.env_a} to ${pair.env_b}`],
  "by-method": (pair) => [pair.method],
};

let pairs = [];
let place = new Map();
let current = null; // key of the pair that is shown
let past = []; // keys that were shown before it
let undo = JSON.parse(sessionStorage.getItem("undo") || "[]");
let epoch = -1;
let work = Promise.resolve(); // one step after the other: a key acts on the pair that is shown when it is its turn
let timer = 0;

const key = (pair) => JSON.stringify([pair.pair_set, pair.pair_id]);
const shown = () => pairs[place.get(current)];
const query = (values) => new URLSearchParams(values).toString();

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("No answer: is 'cfpairs review' still running? What was saved before is kept.");
  }
  if (answer.status === 409) return { conflict: (await answer.json()).pair };
  if (answer.ok) return answer.json();
  let words = answer.statusText;
  try { words = (await answer.json()).error; } catch { /* the status must do */ }
  throw new Error(words);
}

function tell(words) { $("announce").textContent = words; }
function complain(words) {
  $("trouble").hidden = !words;
  $("trouble").textContent = words || "";
}
function step(action) {
  work = work.then(action).catch((error) => complain(error.message));
  return work;
}

async function load() {
  const found = await ask("api/pairs");
  pairs = found.pairs;
  place = new Map(pairs.map((pair, i) => [key(pair), i]));
  epoch = found.epoch;
  $("where").textContent = found.title;
  fillFilters();
}

function fillFilters() {
  for (const [id, values] of Object.entries(FILTERS)) {
    const select = $(id), before = select.value;
    const counts = new Map();
    for (const pair of pairs) for (const value of values(pair)) counts.set(value, (counts.get(value) || 0) + 1);
    select.replaceChildren(new Option("all", ""));
    for (const value of [...counts.keys()].sort()) select.add(new Option(`${value} (${counts.get(value)})`, `=${value}`));
    select.value = [...select.options].some((o) => o.value === before) ? before : "";
    select.closest("label").hidden = counts.size < 2;
  }
}

function matches(pair) {
  const state = $("show").value;
  if (state === "to-do" ? pair.decision : state !== "all" && pair.decision !== state) return false;
  return Object.entries(FILTERS).every(([id, values]) => {
    const wanted = $(id).value;
    return !wanted || values(pair).includes(wanted.slice(1));
  });
}

/** The next pair that the filters let through, after the one that is shown, then from the front. */
function next() {
  const from = current === null ? -1 : place.get(current);
  for (let i = 1; i <= pairs.length; i += 1) {
    const pair = pairs[(from + i + pairs.length) % pairs.length];
    if (matches(pair) && key(pair) !== current) return pair;
  }
  return null;
}

async function advance() {
  const pair = next();
  if (pair === null && current !== null && matches(shown())) {
    tell("This is the only pair that the filters let through.");
    return;
  }
  if (current !== null) past.push(current);
  await show(pair);
}

async function show(pair) {
  const set = pair ? pair.pair_set : ($("by-set").value.slice(1) || (pairs[0] || {}).pair_set);
  current = pair ? key(pair) : null;
  $("one").hidden = !pair;
  $("none").hidden = Boolean(pair);
  $("back").disabled = past.length === 0;
  $("undo").disabled = undo.length === 0;
  if (!pair) {
    const words = pairs.length ? "No pair is left that the filters let through." : "There is no pair to decide on.";
    $("none").textContent = words;
    tell(words);
    await measure(set);
    return;
  }
  sessionStorage.setItem("current", current);
  draw(pair);
  const number = pairs.filter(matches).length;
  const why = pair.flags.length ? `Flagged: ${pair.flags.map((f) => f.flag).join(", ")}.` : "No flag.";
  tell(`Pair ${place.get(current) + 1} of ${pairs.length}, ${number} match the filters. ${$("facts").textContent} ${why}`);
  const details = await ask(`api/pair?${query({ set: pair.pair_set, pair: pair.pair_id })}`);
  if (current === key(pair)) drawDetails(details);
  measure(set).catch((error) => complain(error.message));
}

function draw(pair) {
  $("pair-title").textContent = `Pair ${place.get(key(pair)) + 1} of ${pairs.length}`;
  const score = pair.score === null ? "" : ` · score ${Number(pair.score.toPrecision(3))}`;
  $("facts").textContent = `${pair.pair_set} · label ${pair.label} · ${pair.env_a} to ${pair.env_b}${score} · ${pair.pair_id}`;
  $("reasons").replaceChildren(...pair.flags.map((flag) => {
    const item = document.createElement("li"), name = document.createElement("strong");
    name.textContent = flag.flag;
    item.append(name, document.createTextNode(` ${flag.reason}`));
    return item;
  }));
  $("no-reasons").hidden = pair.flags.length > 0;
  drawDecision(pair);
  $("note").value = pair.note || "";
}

function drawDecision(pair) {
  const line = $("decided");
  line.className = `decided ${pair.decision || ""}`;
  line.textContent = pair.decision ? SAID[pair.decision] : pair.status === "ok" ? "" : `Not used: ${pair.reason || pair.status}`;
}

function drawDetails(pair) {
  for (const side of ["a", "b"]) {
    const item = pair[side];
    const words = `${side.toUpperCase()}: ${item.label} on ${item.env}`;
    picture(side, item.image === "shown" ? `image?${query({ item: item.item_id })}` : null, words, {
      none: "This item has no image, only numbers.", missing: "The image file is missing or cannot be read.",
    }[item.image], item.size);
    $(`figure-${side}`).querySelector("figcaption").textContent = `${words} · ${item.item_id}`;
  }
  const address = `difference?${query({ set: pair.pair_set, pair: pair.pair_id })}`;
  picture("d", pair.difference ? address : null, "Difference of the two images", "No difference without both images.", pair.a.size);
  $("numbers").replaceChildren(...pair.numbers.flatMap(([name, value]) => definition(name, Number(Number(value).toPrecision(4)))));
  $("numbers").closest("details").hidden = pair.numbers.length === 0;
  $("figure-d").hidden = pair.a.image === "none" && pair.b.image === "none";
  if (!pair.difference) $("numbers").closest("details").open = true;
}

function picture(side, address, words, instead, size) {
  const image = $(`image-${side}`), placeholder = $(`figure-${side}`).querySelector(".placeholder");
  image.hidden = !address;
  placeholder.hidden = Boolean(address);
  placeholder.textContent = instead || "";
  image.alt = words;
  image.classList.toggle("small", Boolean(size) && Math.max(...size) <= 128);
  if (address) image.src = address; else image.removeAttribute("src");
}

function definition(name, value) {
  const term = document.createElement("dt"), given = document.createElement("dd");
  term.textContent = name;
  given.textContent = value;
  return [term, given];
}

/** Save a decision; false where another tab was first. */
async function save(pair, decision, note) {
  const answer = await ask("api/decide", {
    pair_set: pair.pair_set, pair_id: pair.pair_id, decision, note: note || null, version: pair.version,
  });
  const now = answer.conflict || answer.pair;
  pairs[place.get(key(pair))] = now;
  if (!answer.conflict) { complain(""); return true; }
  drawDecision(now);
  const theirs = now.decision ? `${SAID[now.decision].toLowerCase()} there` : "left undecided there";
  complain(`Not saved: this pair was changed in another tab and is ${theirs}` +
    `${now.note ? ` with the note “${now.note}”` : ""}. Decide again to put your decision over it.`);
  return false;
}

function remember(entry) {
  undo.push(entry);
  sessionStorage.setItem("undo", JSON.stringify(undo.slice(-500)));
}

async function decide(decision) {
  const pair = shown();
  if (!pair) return;
  const before = { decision: pair.decision, note: pair.note };
  if (!(await save(pair, decision, $("note").value.trim()))) return;
  remember({ key: key(pair), ...before });
  await advance();
  tell(`${SAID[decision]}. ${$("announce").textContent}`);
}

async function takeBack() {
  const last = undo.pop();
  sessionStorage.setItem("undo", JSON.stringify(undo));
  if (!last || !place.has(last.key)) return;
  const pair = pairs[place.get(last.key)];
  const saved = await save(pair, last.decision, last.note);
  if (current !== null && current !== last.key) past.push(current);
  await show(pairs[place.get(last.key)]);
  if (saved) tell(`Taken back: pair ${place.get(last.key) + 1}. ${$("announce").textContent}`);
}

async function saveNote() {
  const pair = shown(), note = $("note").value.trim();
  if (!pair || note === (pair.note || "")) return;
  const before = { decision: pair.decision, note: pair.note };
  if (!(await save(pair, pair.decision, note))) return;
  remember({ key: key(pair), ...before });
  $("undo").disabled = false;
  tell("Note saved.");
}

async function goBack() {
  const before = past.pop();
  if (before !== undefined) await show(pairs[place.get(before)]);
}

async function measure(set) {
  clearTimeout(timer);
  if (!set) return;
  const found = await ask(`api/summary?${query({ set })}`);
  drawSummary(found);
  if (found.epoch !== epoch) step(again);
  if (found.state === "waiting" || (found.state === "ready" && !found.exact)) timer = setTimeout(() => step(() => measure(set)), 700);
}

/** Fetch the pairs again, in a new order if there are new reasons; the pair that is shown stays. */
async function again() {
  await load();
  const pair = shown();
  if (!pair) return;
  const note = $("note").value;
  draw(pair);
  $("note").value = note;
}

function drawSummary(found) {
  const ready = found.state === "ready";
  const level = ready ? found.verdict.level : "";
  $("verdict-level").className = `level-${level}`;
  $("verdict-level").textContent = ready ? `${LEVELS[level] || level}:` : "";
  $("verdict-text").textContent = ready ? `${found.verdict.text}.` : found.state === "waiting" ? "The pairs are being measured." : found.trouble;
  $("verdict-basis").textContent = !ready ? "" : found.exact ? `Measured on these ${found.measured_pairs} pairs.`
    : `Counted anew; the rest was measured on ${found.measured_pairs} pairs and is being measured again.`;
  $("no-reasons").textContent = found.has_reasons ? "Nothing is wrong with it as far as was measured."
    : found.state === "unavailable" ? "Ordered by score. 'cfpairs embed' and 'cfpairs probe' give reasons." : "Reasons come when the pairs are measured.";
  const rows = [["pair set", found.pair_set], ["used", found.used], ["dropped by hand", found.dropped_by_hand],
    ["kept by hand", found.kept_by_hand], ["not decided", found.to_do], ["used and look broken", found.broken]];
  if (ready) {
    rows.push(["directions that count", found.rank], ["recommended r", found.recommended_r],
      ["share of noise", found.noise_share === null ? "not known" : `${Math.round(100 * found.noise_share)} %`]);
  }
  $("figures").replaceChildren(...rows.flatMap(([name, value]) => definition(name, value)));
  drawSpectrum(ready ? found : null);
}

function drawSpectrum(found) {
  const svg = $("spectrum"), values = found ? found.singular_values : [];
  svg.closest("figure").hidden = values.length === 0;
  if (!values.length) return;
  const shape = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
    return made;
  };
  const top = Math.max(values[0], found.noise_edge || 0) || 1, width = 320 / values.length;
  const bars = values.map((value, i) => shape("rect", {
    x: i * width + width * 0.1, width: width * 0.8, y: 140 - 136 * value / top, height: 136 * value / top,
    class: i < found.rank ? "over" : "under",
  }));
  if (found.noise_edge !== null) {
    const y = 140 - 136 * found.noise_edge / top;
    bars.push(shape("line", { x1: 0, x2: 320, y1: y, y2: y }));
  }
  svg.replaceChildren(...bars);
  const edge = found.noise_edge === null ? "no noise edge" : `noise edge ${found.noise_edge.toPrecision(3)} (dashed line)`;
  $("spectrum-words").textContent = `Strength of the first ${values.length} directions of ${found.used} pairs: strongest ${values[0].toPrecision(3)}, ${edge}; ${found.rank} count as signal.`;
  svg.setAttribute("aria-label", $("spectrum-words").textContent);
}

const ACTIONS = { k: () => decide("keep"), d: () => decide("drop"), s: advance, b: goBack, u: takeBack };
const KEYS = { ...ACTIONS, ArrowRight: advance, ArrowLeft: goBack };

document.addEventListener("keydown", (event) => {
  const inField = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.target.id === "note" && event.key === "Enter") {
    event.preventDefault();
    $("pair").focus();
    step(saveNote);
  } else if (inField && event.key === "Escape") {
    $("pair").focus();
  }
  if (inField || !$("keys").checked || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (name === "n" && current !== null) {
    event.preventDefault();
    $("note").focus();
  } else if (Object.hasOwn(KEYS, name)) {
    event.preventDefault();
    step(KEYS[name]);
  }
});
for (const [name, button] of Object.entries({ k: "keep", d: "drop", s: "skip", b: "back", u: "undo" })) {
  $(button).addEventListener("click", () => step(ACTIONS[name]));
}
for (const id of ["show", ...Object.keys(FILTERS)]) {
  $(id).addEventListener("change", () => step(async () => {
    if (current === null || !matches(shown())) await advance();
  }));
}
$("filters").addEventListener("submit", (event) => event.preventDefault());

step(async () => {
  await load();
  const before = sessionStorage.getItem("current");
  const pair = place.has(before) ? pairs[place.get(before)] : null;
  await show(pair && matches(pair) ? pair : next());
});
