// The panel of settings: what is shown of the state, and the state that follows what is chosen.

import { make, marked } from "./text.js";

const MOST_STAGES = 4;
const NUMBERS = ["temperature", "top_p", "top_k", "max_new_tokens", "seed"];
const byId = (id) => document.getElementById(id);

/** Connect the panel with the state; `changed(what)` is called after each change. */
export function connect(app, changed) {
  drawStages(app, changed);
  byId("reference").replaceChildren(
    make("option", { value: "" }, "none"),
    ...app.info.stages.map(({ name }) => make("option", { value: name }, marked(name))),
  );
  listen(byId("reference"), (box) => { app.state.reference = box.value; }, () => changed("reference"));
  listen(byId("blind"), (box) => { app.state.blind = box.checked; }, () => changed("blind"));
  byId("system").addEventListener("input", (event) => {
    app.state.system = event.target.value;
    changed("system");
  });
  for (const box of document.getElementsByName("format")) {
    listen(box, () => { app.state.plain = box.value === "plain"; }, () => changed("format"));
  }
  for (const name of NUMBERS) {
    byId(name).addEventListener("input", ({ target }) => {
      if (problem(target)) return;
      app.state.sampling[name] = target.valueAsNumber;
      changed("sampling");
    });
  }
  byId("format").hidden = !app.info.stages.some((stage) => stage.plain);
  show(app);
}

function listen(box, take, changed) {
  box.addEventListener("change", () => {
    take(box);
    changed();
  });
}

/** Let the panel say what the state is. */
export function show({ state, info }) {
  byId("reference").value = state.reference;
  byId("blind").checked = state.blind;
  byId("system").value = state.system;
  const format = state.plain ? "plain" : "chat";
  for (const box of document.getElementsByName("format")) box.checked = box.value === format;
  for (const name of NUMBERS) byId(name).value = state.sampling[name];
  showStages(state);
  drawOnly(state, info);
}

/** What is wrong with the numbers as they stand, in words; "" where nothing is. */
export function problems() {
  return NUMBERS.map((name) => problem(byId(name))).find(Boolean) ?? "";
}

/** As the browser finds it, but numbers between the steps of the arrow keys are fine unless whole ones. */
function problem(box) {
  const { validity } = box;
  const bad = validity.badInput || validity.valueMissing || validity.rangeUnderflow || validity.rangeOverflow;
  const broken = validity.stepMismatch && box.step === "1";
  box.setAttribute("aria-invalid", String(bad || broken));
  if (!bad && !broken) return "";
  const range = box.max ? `from ${box.min} to ${box.max}` : `of ${box.min} or more`;
  return `${box.labels[0].textContent}: give a ${box.step === "1" ? "whole number" : "number"} ${range}.`;
}

function drawStages(app, changed) {
  const rows = app.info.stages.map(({ name, about }, place) =>
    make(
      "label",
      { class: "check" },
      make("input", { type: "checkbox", value: name, change: () => choose(app, changed) }),
      make("span", { class: `dot stage-${place % 6}`, "aria-hidden": "true" }),
      make("span", { dir: "auto" }, marked(name)),
      make("span", { class: "soft", dir: "auto" }, marked(about === name ? "" : about)),
    ),
  );
  byId("stages").replaceChildren(...rows);
}

function boxes() {
  return [...byId("stages").querySelectorAll("input")];
}

function choose(app, changed) {
  app.state.shown = boxes().filter((box) => box.checked).map((box) => box.value);
  showStages(app.state);
  drawOnly(app.state, app.info);
  changed("stages");
}

/** One stage stays, and no more than four can be chosen: such boxes cannot be changed. */
function showStages({ shown }) {
  for (const box of boxes()) {
    box.checked = shown.includes(box.value);
    box.disabled = box.checked ? shown.length === 1 : shown.length >= MOST_STAGES;
  }
}

function drawOnly({ shown }, info) {
  const names = inOrder(info, shown);
  byId("only").replaceChildren(
    make("option", { value: "" }, names.length > 1 ? `all ${names.length} stages` : marked(names[0])),
    ...(names.length > 1 ? names.map((name) => make("option", { value: name }, marked(`only ${name}`))) : []),
  );
}

/** The stages that the next message goes to, in the order of the run. */
export function asked({ state, info }) {
  const only = byId("only").value;
  return only ? [only] : inOrder(info, state.shown);
}

/** Those of the names that are stages of the run, in its order. */
export function inOrder({ stages }, names) {
  return stages.map((stage) => stage.name).filter((name) => names.includes(name));
}
