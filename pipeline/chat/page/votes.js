// Votes on a turn's answers. The server takes votes on pairs; of more than two columns, each pair that the
// voter has judged is sent: a best answer beats every other one, a tie or "all bad" holds for every pair.

import { sendVote } from "./api.js";
import { labelOf, toWire } from "./state.js";
import { count, make, marked } from "./text.js";

/** Whether a turn can be voted on: two or more finished answers under known settings, not voted on yet. */
export function canVote(turn) {
  const finished = (stage) => !["cancelled", undefined].includes(turn.answers[stage]?.reason);
  const open = turn.vote === null && turn.sampling !== undefined;
  return open && turn.stages.length > 1 && turn.stages.every(finished);
}

/** The buttons of a vote, or what came of it; `voted` is called once the vote is saved. */
export function voteBar(app, turn, voted) {
  if (turn.vote !== null) return make("p", { class: "votes soft", tabindex: "-1" }, turn.vote);
  const note = make("span", { class: "soft", role: "status" });
  const two = turn.stages.length === 2;
  const vote = async (pick) => {
    for (const button of buttons) button.disabled = true;
    try {
      turn.vote = await save(app.state, turn, pick);
      voted();
    } catch (error) {
      note.replaceChildren(marked(`Not saved. ${error.message}`));
      for (const button of buttons) button.disabled = false;
    }
  };
  const button = (text, pick) => make("button", { type: "button", click: () => vote(pick) }, marked(text));
  const buttons = [
    ...turn.stages.map((_, place) => button(`${labelOf(turn, place)} is ${two ? "better" : "best"}`, place)),
    button(two ? "Tie" : "All alike", "tie"),
    button(two ? "Both bad" : "All bad", "both_bad"),
  ];
  return make("div", { class: "votes row", role: "group", "aria-label": "Your vote" }, ...buttons, note);
}

async function save(state, turn, pick) {
  let last;
  const text = (stage) => turn.answers[stage].text.trim();
  // Of equal answers none is better, and an empty one cannot be compared.
  const judged = pairs(turn.stages, pick).filter(
    ([left, right]) => text(left) && text(right) && text(left) !== text(right),
  );
  if (!judged.length) throw new Error("The answers are equal or empty, so there is nothing to prefer.");
  for (const [left, right, verdict] of judged) {
    last = await sendVote({
      conversation: toWire(state, turn), left, right, verdict, blind: turn.blind,
      sampling: turn.sampling, attempt: turn.attempt,
    });
  }
  const again = last.duplicate ? " It was there already." : "";
  const against = last.contradiction ? " It contradicts an earlier vote on the same answers." : "";
  return `Saved, ${count(last.votes, "vote")} so far.${again}${against}`;
}

/** The pairs that a pick (a column, "tie" or "both_bad") judges; left and right as they stood. */
function pairs(stages, pick) {
  const found = [];
  for (let left = 0; left < stages.length; left++) {
    for (let right = left + 1; right < stages.length; right++) {
      const verdict = { [left]: "left", [right]: "right" }[pick] ?? (Number.isInteger(pick) ? null : pick);
      if (verdict) found.push([stages[left], stages[right], verdict]);
    }
  }
  return found;
}
