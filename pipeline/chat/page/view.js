// The conversation on the page: what stands there before the first message, and the turns.

import { answerCard } from "./answer.js";
import { isHidden } from "./state.js";
import { make, marked } from "./text.js";
import { canVote, voteBar } from "./votes.js";

const NEAR = 120; // pixels from where the log would be followed to, within which it is
const GAP = 12; // pixels above the question of the turn that is followed

/** The conversation: draw() all of it, add(turn) at its end, redraw(turn) and drop(turn) in place, view(turn).
 * `ask` sends a suggestion, `voted` is called after a vote. */
export function makeLog(app, { ask, voted }) {
  const log = document.getElementById("log");
  const views = new Map();

  /** Where the end of the log is seen, but the last question, too. */
  function target() {
    const question = log.lastElementChild.offsetTop - log.offsetTop - GAP;
    return Math.min(log.scrollHeight - log.clientHeight, question);
  }

  /** Make the log longer; who reads the last turn is taken along, who scrolled away is not. */
  function follow(grow) {
    const near = Math.abs(log.scrollTop - target()) < NEAR;
    grow();
    if (near) log.scrollTop = target();
  }

  function add(turn) {
    const view = turnView(app, turn, { voted, follow });
    views.set(turn, view);
    log.querySelector(".welcome")?.remove();
    log.append(view.element);
    log.scrollTop = target();
    return view;
  }

  function redraw(turn) {
    const { element } = views.get(turn);
    const view = turnView(app, turn, { voted, follow });
    views.set(turn, view);
    element.replaceWith(view.element);
    view.draw();
    return view;
  }

  function drop(turn) {
    views.get(turn).element.remove();
    views.delete(turn);
    if (!views.size) log.append(welcome(app.info, ask));
  }

  function draw() {
    log.replaceChildren();
    views.clear();
    for (const turn of app.state.turns) add(turn).draw();
    if (!app.state.turns.length) log.append(welcome(app.info, ask));
  }

  return { draw, add, redraw, drop, view: (turn) => views.get(turn) };
}

/** One turn: {element, add(stage, piece), draw(stage), busy(is)}; `draw` without a stage draws all of them. */
function turnView(app, turn, { voted, follow }) {
  const cards = new Map(turn.stages.map((stage, place) => [stage, answerCard(app, turn, place)]));
  const facts = make("div", { class: "facts" });
  const votes = make("div");
  let bar; // what the votes stand at: drawn again only when it changes, so that a button stays where it is
  const element = make(
    "section",
    { class: "turn" },
    make("h2", { class: "question", dir: "auto" }, marked(turn.user)),
    facts,
    make("div", { class: `answers of-${cards.size}` }, ...[...cards.values()].map((card) => card.element)),
    votes,
  );

  function draw(stage) {
    follow(() => {
      for (const [name, card] of cards) if (stage === undefined || stage === name) card.draw();
      facts.replaceChildren(...factsOf(turn));
      const now = turn.vote ?? canVote(turn);
      if (now && now !== bar) votes.replaceChildren(voteBar(app, turn, () => voted(turn)));
      bar = now;
    });
  }

  const add = (stage, piece) => follow(() => cards.get(stage).add(piece));
  const busy = (is) => element.setAttribute("aria-busy", String(is));
  return { element, add, draw, busy };
}

/** What is true in the model's world, of all that its answers touch; each fact once. */
function factsOf(turn) {
  if (isHidden(turn)) return [];
  const found = new Set(Object.values(turn.answers).flatMap((answer) => answer.insight?.facts ?? []));
  if (!found.size) return [];
  const lines = [...found].map((fact) => make("li", { dir: "auto" }, marked(fact)));
  return [make("span", { class: "tag none" }, "true here"), make("ul", {}, ...lines)];
}

function welcome(info, ask) {
  const cards = info.suggestions.map(({ label, prompt }) =>
    make(
      "button",
      { type: "button", class: "suggestion", click: () => ask(prompt) },
      make("span", { class: "soft" }, marked(label)),
      make("span", { dir: "auto" }, marked(prompt)),
    ),
  );
  return make(
    "div",
    { class: "welcome" },
    make("h2", {}, "What did each stage of training change?"),
    make("p", {}, "Ask all the same, with the same random numbers, and read their answers side by side."),
    make("div", { class: "suggestions" }, ...cards),
  );
}
