"use strict";
// Texts of data reach the page as textContent or attributes only, never as markup.
const demos = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let number = 0; // place in `demos`
let playing = null;

function element(tag, text = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  return made;
}

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const show = (value) => (value === null ? "?" : Number(value.toPrecision(4)).toString());

// A curve over all frames of a demo; its caption says the value at the frame that is shown.
function plot(name, values) {
  const known = values.filter((value) => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const height = (value) => (high > low ? 96 - (92 * (value - low)) / (high - low) : 50);
  const points = values.map((value, t) => (value === null ? "" : `${t},${height(value)}`)).join(" ");
  const figure = element("figure");
  const caption = element("figcaption", `${name} `);
  const now = element("b");
  caption.append(now, ` (${show(low)} to ${show(high)})`);
  const svg = shape("svg", { viewBox: `0 0 ${Math.max(1, values.length - 1)} 100`, preserveAspectRatio: "none" });
  const cursor = shape("line", { x1: 0, x2: 0, y1: 0, y2: 100 });
  svg.append(shape("polyline", { points }), cursor);
  figure.append(caption, svg);
  const move = (t) => {
    cursor.setAttribute("x1", t);
    cursor.setAttribute("x2", t);
    now.textContent = show(values[t]);
  };
  return { figure, move };
}

// Curves of what changes in a demo, and a line of what does not.
function curves(id, columns) {
  const still = (values) => values.every((value) => value === values[0]);
  const entries = Object.entries(columns);
  const plots = entries.filter(([, values]) => !still(values)).map(([name, values]) => plot(name, values));
  byId(id).replaceChildren(...plots.map((each) => each.figure));
  const fixed = entries.filter(([, values]) => still(values)).map(([name, values]) => `${name}: ${show(values[0])}`);
  const line = fixed.length ? `The same in every frame: ${fixed.join(", ")}` : entries.length ? "" : "none";
  byId(`${id}-still`).textContent = line;
  return plots;
}

let moves = []; // what follows the slider

function openDemo(place) {
  number = place;
  const demo = demos[number];
  byId("demo").value = number;
  byId("instruction").textContent = demo.instruction;
  const frames = Object.values(demo.actions)[0].length;
  byId("time").max = frames - 1;
  const pictures = Object.entries(demo.pictures).map(([view, sources]) => {
    const figure = element("figure");
    const picture = element("img");
    picture.alt = view;
    figure.append(picture, element("figcaption", view));
    const step = demo.times.length > 1 ? demo.times[1] : 1;
    return { figure, move: (t) => { picture.src = sources[Math.floor(t / step)]; } };
  });
  byId("pictures").replaceChildren(...pictures.map((each) => each.figure));
  const actions = curves("actions", demo.actions);
  const state = curves("state", demo.state);
  moves = [...pictures, ...actions, ...state].map((each) => each.move);
  goTo(0);
  byId("previous").disabled = number === 0;
  byId("next").disabled = number === demos.length - 1;
}

function goTo(t) {
  const slider = byId("time");
  slider.value = t;
  const at = Number(slider.value); // within its limits
  byId("frame").textContent = `frame ${at} of ${Number(slider.max) + 1}`;
  byId("integers").textContent = demos[number].integers[at] ?? "";
  for (const move of moves) move(at);
}

function play(on) {
  clearInterval(playing);
  const slider = byId("time");
  if (on && slider.value === slider.max) goTo(0);
  playing = on ? setInterval(() => {
    if (slider.value === slider.max) play(false);
    else goTo(Number(slider.value) + 1);
  }, 1000 / demos[number].rate) : null;
  byId("play").textContent = on ? "⏸" : "▶";
}

demos.forEach((demo, place) => {
  const option = element("option", demo.name);
  option.value = place;
  byId("demo").append(option);
});
byId("demo").addEventListener("change", () => { play(false); openDemo(Number(byId("demo").value)); });
byId("previous").addEventListener("click", () => { play(false); openDemo(number - 1); });
byId("next").addEventListener("click", () => { play(false); openDemo(number + 1); });
byId("time").addEventListener("input", () => { play(false); goTo(byId("time").value); });
byId("play").addEventListener("click", () => play(playing === null));
document.addEventListener("keydown", (event) => {
  if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by) { play(false); goTo(Number(byId("time").value) + by); }
  if (event.key === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); play(playing === null); }
});
openDemo(0);
