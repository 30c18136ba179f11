"use strict";
// Texts of records reach the page as textContent or attributes only, never as markup.
const { shared, episodes } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  return made;
}

// What the filter offers, in the order of its list.
const outcomes = {
  "all outcomes": () => true,
  failures: (e) => !e.fields.success,
  successes: (e) => e.fields.success,
  "with parse failures": (e) => value(e, "parse_failures") > 0,
  "with incidents": (e) => value(e, "incidents") > 0,
};
if (episodes.some((e) => e.b)) {
  outcomes["only A solved"] = (e) => e.b && e.fields.success && !e.b.success;
  outcomes["only B solved"] = (e) => e.b && !e.fields.success && e.b.success;
}

function value(episode, name) {
  return name in episode.fields ? episode.fields[name] : shared[name];
}

function outcomeText(side) {
  return side.success ? `✓ success after ${side.steps} steps` : `✗ failure, ${side.steps} steps`;
}

// What the policy read: the task's instruction, if nothing else was asked.
function asked(episode) {
  return value(episode, "asked") ?? episode.fields.instruction;
}

// ---- the grid --------------------------------------------------------------------------------------------------

// How the episode ended, a small picture that the browser fetches when its card comes into sight. The video itself is
// fetched by the viewer alone.
function thumbnail({ poster }) {
  const frame = element("span", "poster", "▶");
  if (poster) {
    const picture = element("img");
    picture.loading = "lazy";
    picture.alt = "";
    picture.addEventListener("error", () => picture.remove());
    picture.src = poster;
    frame.append(picture);
  }
  return frame;
}

function card(episode, place) {
  const { fields, b } = episode;
  const made = element("button", "episode");
  if (episode.video) made.append(thumbnail(episode));
  const text = element("div");
  text.append(element("b", fields.success ? "success" : "failure", outcomeText(fields)));
  text.append(element("span", "", `${fields.suite} ${fields.task_id}, init ${fields.init_state}`));
  text.append(element("span", "muted", asked(episode)));
  const remarks = [];
  if (value(episode, "parse_failures")) remarks.push(`${value(episode, "parse_failures")} parse failures`);
  if (value(episode, "incidents")) remarks.push(`${value(episode, "incidents")} incidents`);
  if (b && b.success !== fields.success) remarks.push(`B: ${outcomeText(b)}`);
  if (!episode.video) remarks.push(b ? "no video of A" : "no video");
  if (remarks.length) text.append(element("span", "", remarks.join(", ")));
  made.append(text);
  made.addEventListener("click", () => openViewer(place));
  return made;
}

const cards = episodes.map(card);
byId("grid").append(...cards);

// ---- the filter ------------------------------------------------------------------------------------------------

const [suite, task, outcome, words] = ["suite", "task", "outcome", "words"].map(byId);
const taskName = ({ fields }) => `${fields.suite} ${fields.task_id}`;
const haystacks = episodes.map((episode) => {
  const { fields } = episode;
  const errors = (value(episode, "incident_errors") ?? []).join(" ");
  const text = `${taskName(episode)} init ${fields.init_state} seed ${fields.seed} ${fields.task_name} `;
  return (text + `${fields.instruction} ${asked(episode)} ${errors}`).toLowerCase();
});
let shown = []; // places in `episodes` of those that pass the filter

function offer(select, all, texts) {
  const before = select.value;
  select.replaceChildren(...Object.entries({ "": all, ...texts }).map(([name, text]) => {
    const option = element("option", "", text);
    option.value = name;
    return option;
  }));
  select.value = before in texts ? before : "";
}

function offerTasks() {
  const texts = {};
  const inOrder = [...episodes].sort((a, b) => a.fields.task_id - b.fields.task_id);
  for (const episode of inOrder) {
    const { fields } = episode;
    if (suite.value === "" || suite.value === fields.suite) {
      texts[taskName(episode)] = `${suite.value ? fields.task_id : taskName(episode)}: ${fields.instruction}`;
    }
  }
  offer(task, "all tasks", texts);
}

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = [];
  episodes.forEach((episode, place) => {
    const passes = (suite.value === "" || suite.value === episode.fields.suite)
      && (task.value === "" || task.value === taskName(episode))
      && outcomes[outcome.value](episode)
      && wanted.every((word) => haystacks[place].includes(word));
    cards[place].hidden = !passes;
    if (passes) shown.push(place);
  });
  byId("count").textContent = `${shown.length} of ${episodes.length} episodes`;
}

function choose(suiteName, taskId) {
  suite.value = suiteName;
  offerTasks();
  task.value = taskId === undefined ? "" : `${suiteName} ${taskId}`;
  outcome.selectedIndex = 0;
  words.value = "";
  filter();
}

const suites = [...new Set(cards.length ? episodes.map((e) => e.fields.suite) : [])].sort();
offer(suite, "all suites", Object.fromEntries(suites.map((name) => [name, name])));
outcome.replaceChildren(...Object.keys(outcomes).map((name) => element("option", "", name)));
suite.addEventListener("change", () => { offerTasks(); filter(); });
for (const control of [task, outcome]) control.addEventListener("change", filter);
words.addEventListener("input", filter);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("reset").addEventListener("click", () => choose(""));
for (const bar of document.querySelectorAll("a.task")) {
  bar.addEventListener("click", () => choose(bar.dataset.suite, bar.dataset.task));
}
choose("");

// ---- the viewer ------------------------------------------------------------------------------------------------

const viewer = byId("viewer");
let current = 0; // place in `episodes`

function screen(title, { video, poster }) {
  const figure = element("figure");
  if (title) figure.append(element("figcaption", "", title));
  const empty = (text) => figure.append(element("div", "empty", text));
  if (video) {
    const player = element("video");
    player.controls = player.muted = player.playsInline = player.autoplay = true;
    if (poster) player.poster = poster;
    player.src = video;
    player.addEventListener("error", () => {
      player.remove();
      empty(`the video cannot be played: ${video.startsWith("data:") ? "damaged" : decodeURI(video)}`);
    });
    figure.append(player);
  } else {
    empty("no video");
  }
  return figure;
}

function describe(list, fields) {
  list.replaceChildren(...Object.entries(fields).map(([name, content]) => {
    const row = element("div");
    const text = typeof content === "string" ? content : JSON.stringify(content);
    row.append(element("dt", "", name), element("dd", "", text));
    return row;
  }));
}

function show(place) {
  current = place;
  const { fields, source, b } = episodes[place];
  byId("viewer-title").textContent =
    `${fields.suite} ${fields.task_id}, init ${fields.init_state}: ${asked(episodes[place])}`;
  const screens = [screen(`${b ? "A: " : ""}${outcomeText(fields)}`, episodes[place])];
  if (b) screens.push(screen(`B: ${outcomeText(b)}`, b));
  byId("screens").replaceChildren(...screens);
  describe(byId("fields"), { ...fields, "read from": source, ...(b ? { "B read from": b.source } : {}) });
  byId("previous").disabled = shown.indexOf(place) <= 0;
  byId("next").disabled = shown.indexOf(place) === shown.length - 1;
}

function openViewer(place) {
  show(place);
  viewer.showModal();
  viewer.focus(); // rather than its first button
}

function walk(by) {
  const next = shown[shown.indexOf(current) + by];
  if (next !== undefined) show(next);
}

describe(byId("shared"), shared);
byId("previous").addEventListener("click", () => walk(-1));
byId("next").addEventListener("click", () => walk(1));
byId("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); }); // beside it
viewer.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) {
    event.preventDefault(); // a video in focus would seek
    walk(by);
  }
}, true);
viewer.addEventListener("close", () => {
  byId("screens").replaceChildren(); // stops the videos
  cards[current].focus();
});
