// What stands around the conversation: which buttons can be used, what went wrong, what is kept.

import { remember } from "./state.js";
import { marked } from "./text.js";

const byId = (id) => document.getElementById(id);

/** A reply is under way, which the controller stops; or none is, by null. */
export function setRunning(app, controller) {
  app.running = controller;
  const focused = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = Boolean(controller);
  byId("stop").hidden = !controller;
  if (focused) byId(controller ? "stop" : "send").focus(); // a hidden button would lose the keyboard's place
  enable(app);
}

/** Let the buttons be usable where they make sense. While answers stream, nothing may redraw them. */
export function enable({ running, state }) {
  const busy = Boolean(running);
  for (const id of ["new", "load", "blind"]) byId(id).disabled = busy;
  for (const id of ["undo", "regenerate", "save"]) byId(id).disabled = busy || !state.turns.length;
}

/** Say in words what went wrong; "" once it no longer matters. */
export function report(message) {
  byId("error").hidden = !message;
  byId("error").replaceChildren(marked(message));
}

/** Keep the state for the next visit. */
export function keep({ info, state }) {
  remember(info.run, state);
}
