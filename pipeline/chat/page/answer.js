// One answer: its text while it streams, then what is known about it.

import { getInsight } from "./api.js";
import { isHidden, labelOf, toWire } from "./state.js";
import { count, isNumber, make, marked, number, signed } from "./text.js";
import { hideTip, tokenView } from "./tokens.js";

const NEUTRAL = ["abstain", "partial"]; // any other outcome is as good as its score

/** The card of one column: {element, add(piece), draw()}; `draw` once the answer or its numbers changed. */
export function answerCard(app, turn, place) {
  const stage = turn.stages[place];
  const label = labelOf(turn, place);
  const body = make("div", { class: "said", dir: "auto" });
  const known = make("div", { class: "known" });
  const button = make("button", { type: "button", class: "quiet small", hidden: true }, "Tokens");
  let opened = false;

  button.addEventListener("click", toggle);

  async function toggle() {
    opened = !opened;
    hideTip();
    if (opened && !turn.answers[stage].insight?.views) await addInsight(app, turn, stage);
    opened &&= Boolean(turn.answers[stage].insight.views);
    draw();
  }

  function draw() {
    const answer = turn.answers[stage];
    if (!answer) {
      body.replaceChildren(make("span", { class: "soft" }, "No answer."));
      return;
    }
    const { views, reference } = answer.insight ?? {};
    const tokens = opened && !isHidden(turn) && views?.length;
    body.replaceChildren(tokens ? tokenView(views, label, reference) : marked(answer.text));
    if (!answer.text && !tokens) body.append(make("span", { class: "soft" }, "(nothing)"));
    known.replaceChildren(...notes(answer), ...(isHidden(turn) ? [] : numbers(answer)));
    button.hidden = !answer.tokens?.length || isHidden(turn);
    button.setAttribute("aria-pressed", String(opened));
  }

  const foot = make("div", { class: "foot" }, known, button);
  const element = make(
    "article", { class: "answer", "aria-label": `Answer of ${label}` }, head(app, turn, place), body, foot,
  );
  const add = (piece) => body.append(marked(piece));
  return { element, add, draw };
}

function head(app, turn, place) {
  const stage = turn.stages[place];
  const known = app.info.stages.findIndex((each) => each.name === stage);
  const name = make("h3", {}, make("span", { dir: "auto" }, marked(labelOf(turn, place))));
  if (isHidden(turn)) return name;
  name.prepend(make("span", { class: `dot stage-${known < 0 ? "none" : known % 6}`, "aria-hidden": "true" }));
  if (turn.blind) name.append(" was ", make("span", { dir: "auto" }, marked(stage)));
  const about = app.info.stages[known]?.about;
  if (about && about !== stage) name.append(make("span", { class: "soft", dir: "auto" }, marked(about)));
  return name;
}

function notes({ reason, num_dropped: dropped, limit }) {
  const found = [];
  if (reason === "cancelled") found.push("stopped");
  if (reason === "length") found.push(`cut off after ${count(limit, "token")}`);
  if (dropped === 1) found.push("the oldest turn was left out");
  if (dropped > 1) found.push(`the oldest ${dropped} turns were left out`);
  return found.length ? [make("p", { class: "note" }, found.join("; "))] : [];
}

function numbers({ tokens, insight }) {
  const found = [];
  const say = (name, value, unit) =>
    found.push(make("span", { class: "figure", title: unit }, `${name} `, make("b", {}, value)));
  if (tokens?.length) say("tokens", String(tokens.length), "tokens drawn, with the end of the text");
  if (!insight) return row(found);
  if (insight.error) {
    return [...row(found), make("p", { class: "soft" }, marked(`No more numbers: ${insight.error}`))];
  }
  if (isNumber(insight.logprob)) say("log-prob", number(insight.logprob), "nats, mean over the tokens");
  if (isNumber(insight.kl)) say(`KL to ${insight.reference}`, number(insight.kl), "nats, sum over the tokens");
  if (isNumber(insight.score)) say("reward", signed(insight.score), "score of the learned reward model");
  if (isNumber(insight.value)) say("value", signed(insight.value), "what the critic expected");
  return [...(insight.gold ? [gold(insight.gold)] : []), ...row(found)];
}

function row(found) {
  return found.length ? [make("p", { class: "figures" }, ...found)] : [];
}

function gold({ score, outcome, explanation, terms }) {
  const parts = Object.entries(terms ?? {}).map(([name, value]) => `${name} ${signed(value)}`);
  const why = [parts.length ? ` (${parts.join(", ")})` : "", explanation].filter(Boolean).join("; ");
  const kind = NEUTRAL.includes(outcome) ? "none" : score > 0 ? "good" : "bad";
  return make(
    "p",
    { class: "gold", dir: "auto" },
    outcome ? make("span", { class: `tag ${kind}` }, marked(outcome)) : null,
    outcome ? " " : null,
    make("span", { title: "the exact reward, seen by no model" }, "gold ", make("b", {}, signed(score))),
    make("span", { class: "soft" }, marked(why)),
  );
}

/** Ask the server for the numbers of an answer; a failure is kept as `insight.error`. Never throws. */
export async function addInsight(app, turn, stage) {
  const answer = turn.answers[stage];
  const { reference } = app.state;
  const body = {
    stage, reference: reference || null, conversation: toWire(app.state, turn), tokens: answer.tokens,
    sampling: turn.sampling, plain_base: turn.plain,
  };
  try {
    answer.insight = { ...(await getInsight(body)), reference };
  } catch (error) {
    answer.insight = { error: error.message };
  }
}
