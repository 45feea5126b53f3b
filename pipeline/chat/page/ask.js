// Asking: a message goes to the stages, their answers stream into the page, and the numbers follow.

import { addInsight } from "./answer.js";
import { cutShort, getReply } from "./api.js";
import { keep, report, setRunning } from "./frame.js";
import { asked, inOrder, problems } from "./settings.js";
import * as states from "./state.js";

const byId = (id) => document.getElementById(id);

/** Say something to the stages that are chosen; where it fails, the text is back in its place. */
export async function send(app, text) {
  const wrong = problems();
  if (app.running || !text.trim()) return;
  if (wrong) return report(wrong);
  const turn = states.newTurn(app.state, text, asked(app));
  app.state.turns.push(turn);
  byId("message").value = "";
  await answer(app, turn, () => {
    app.state.turns.pop();
    app.log.drop(turn);
    if (!byId("message").value) byId("message").value = text;
  });
}

/** Let the last message be answered again, by other random numbers and the settings of now. */
export async function regenerate(app) {
  const wrong = problems();
  if (wrong) return report(wrong);
  const before = app.state.turns.pop();
  const known = inOrder(app.info, before.stages);
  const stages = known.length ? known : asked(app); // those of a file may be of another run
  const turn = { ...states.prepare({ ...before, stages }, app.state), attempt: before.attempt + 1 };
  app.state.turns.push(turn);
  app.log.drop(before);
  await answer(app, turn, () => {
    app.state.turns.splice(-1, 1, before);
    app.log.drop(turn);
    app.log.add(before).draw();
  });
}

/** Let the last turn be answered; where that fails, `takeBack` restores what was before. */
async function answer(app, turn, takeBack) {
  const view = app.log.add(turn);
  setRunning(app, new AbortController());
  report("");
  view.busy(true);
  try {
    await follow(app, turn, view, app.running.signal);
  } catch (error) {
    if (error.name !== "AbortError") {
      takeBack();
      report(error.message);
      return;
    }
  } finally {
    setRunning(app, null);
    view.busy(false);
  }
  view.draw();
  keep(app);
  await addNumbers(app, turn);
}

/** Read a reply into the turn; what had arrived of an answer when it was stopped stays. */
async function follow(app, turn, view, signal) {
  const body = {
    stages: turn.stages, conversation: states.toWire(app.state, turn), sampling: turn.sampling,
    attempt: turn.attempt, plain_base: turn.plain,
  };
  const texts = new Map(turn.stages.map((stage) => [stage, ""]));
  try {
    for await (const { stage, piece, answer } of getReply(body, signal)) {
      if (!texts.has(stage)) continue;
      if (answer) finish(turn, view, stage, answer);
      else {
        texts.set(stage, texts.get(stage) + piece);
        view.add(stage, piece);
      }
    }
  } finally {
    for (const [stage, text] of texts) {
      if (signal.aborted && text) turn.answers[stage] ??= { text, reason: "cancelled" };
    }
  }
  if (!turn.stages.every((stage) => turn.answers[stage])) throw cutShort();
}

function finish(turn, view, stage, { text, reason, tokens, num_dropped, limit }) {
  turn.answers[stage] = { text, reason, tokens, num_dropped, limit };
  view.draw(stage);
  byId("said").textContent = `${states.labelOf(turn, turn.stages.indexOf(stage))} has answered: ${text}`;
}

/** Fetch the numbers of a turn's answers, one after the other; never while they would tell the names. */
export async function addNumbers(app, turn) {
  if (states.isHidden(turn)) return;
  for (const stage of turn.stages) {
    if (!turn.answers[stage]?.tokens?.length) continue;
    await addInsight(app, turn, stage);
    app.log.view(turn)?.draw(stage);
  }
  keep(app);
}
