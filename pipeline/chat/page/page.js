// The page: loads the run and connects the parts.

import { reportAddress, getRun } from "./api.js";
import { addNumbers, regenerate, send } from "./ask.js";
import { enable, keep, report } from "./frame.js";
import { connect, show } from "./settings.js";
import * as states from "./state.js";
import { marked } from "./text.js";
import { followScroll, hideTip } from "./tokens.js";
import { makeLog } from "./view.js";

const byId = (id) => document.getElementById(id);
const WIDE = matchMedia("(min-width: 60rem)"); // where the settings stand beside the conversation

// `info` is what the server says of the run, `running` the AbortController of the reply under way.
const app = { info: null, state: null, log: null, running: null };

/** Draw everything from the state. */
function redraw() {
  hideTip();
  app.log.draw();
  show(app);
  enable(app);
  keep(app);
}

function undo() {
  const { user } = app.state.turns.pop();
  if (!byId("message").value) byId("message").value = user;
  redraw();
  byId("message").focus();
}

function startAnew() {
  app.state.turns = [];
  report("");
  redraw();
  byId("message").focus();
}

function save() {
  const text = JSON.stringify(states.toWire(app.state), null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

async function load() {
  const [file] = byId("file").files;
  byId("file").value = ""; // so that the same file can be chosen again
  if (!file || app.running) return;
  try {
    Object.assign(app.state, states.fromFile(await file.text()));
    report("");
    redraw();
  } catch (error) {
    report(error.message);
  }
}

/** After a vote the names are known: the turn is drawn anew, and its numbers are fetched. */
function voted(turn) {
  if (!app.log.view(turn)) return; // answered again in the meantime
  app.log.redraw(turn).element.querySelector(".votes").focus();
  keep(app);
  if (turn.blind) addNumbers(app, turn);
}

function changed(what) {
  if (what === "blind" && !app.state.blind) {
    for (const turn of app.state.turns.filter(states.isHidden)) reveal(turn);
  }
  if (what === "reference" && app.state.turns.length && !app.running) addNumbers(app, app.state.turns.at(-1));
  keep(app);
}

/** Show the names without a vote: a vote given now is no blind one. */
function reveal(turn) {
  turn.blind = false;
  app.log.redraw(turn);
  addNumbers(app, turn);
}

function openSettings(open) {
  byId("settings").hidden = !open;
  byId("open-settings").setAttribute("aria-expanded", String(open));
}

function listen() {
  const message = byId("message");
  const on = (id, act) => byId(id).addEventListener("click", act);
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(app, message.value);
  });
  byId("settings-form").addEventListener("submit", (event) => event.preventDefault());
  message.addEventListener("keydown", (event) => {
    if (event.key === "Escape") app.running?.abort();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send(app, message.value);
  });
  on("stop", () => app.running?.abort());
  on("regenerate", () => regenerate(app));
  on("undo", undo);
  on("new", startAnew);
  on("save", save);
  on("load", () => byId("file").click());
  byId("file").addEventListener("change", load);
  on("open-settings", () => openSettings(byId("settings").hidden));
  byId("log").addEventListener("scroll", followScroll);
}

async function start() {
  openSettings(WIDE.matches);
  try {
    app.info = await getRun();
  } catch (error) {
    return report(error.message);
  }
  const { run, has_report: hasReport } = app.info;
  byId("run").replaceChildren(marked(run));
  document.title = `${run} \u00b7 fledge`;
  byId("report").hidden = !hasReport;
  byId("report").href = reportAddress();
  app.log = makeLog(app, { ask: (prompt) => send(app, prompt), voted });
  app.state = states.recall(run, app.info) ?? states.fresh(app.info);
  connect(app, changed);
  listen();
  try {
    redraw();
  } catch {
    states.forget(run); // kept by another version, or broken: drawn as a first visit
    app.state = states.fresh(app.info);
    redraw();
  }
}

start();
