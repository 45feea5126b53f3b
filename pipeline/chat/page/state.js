// What the page knows: settings and turns. A turn's answers are in the order of its `stages`:
//   {user, stages, answers: {stage: {text, reason, tokens, num_dropped, limit, insight}}, attempt, sampling,
//    system, plain, blind, vote}
// `blind` is true while, or where, the names were hidden when the vote was given. Turns of a file have texts
// alone: no `sampling` (so no vote), no tokens (so no numbers).

const SCHEMA = 'expected {"system": text, "turns": [{"user": text, "answers": {stage: text}}, ...]}';
const MOST_CHARACTERS = 1_000_000; // of one run's storage; a browser gives about five million in all

/** The state of a first visit. */
export function fresh(info) {
  return {
    system: "",
    turns: [],
    shown: info.shown.slice(0, 4),
    reference: info.reference ?? "",
    sampling: { ...info.sampling },
    plain: true,
    blind: false,
  };
}

/** A turn that nobody has answered yet; the columns of a blind one are shuffled. */
export function newTurn(state, user, stages) {
  const turn = { user, stages, answers: {}, attempt: 0, vote: null };
  return prepare(turn, state);
}

/** Let a turn be asked (again) under the settings of now. */
export function prepare(turn, state) {
  const blind = state.blind && turn.stages.length > 1;
  return {
    ...turn,
    stages: blind ? shuffled(turn.stages) : turn.stages,
    answers: {},
    sampling: { ...state.sampling },
    system: state.system,
    plain: state.plain,
    blind,
    vote: null,
  };
}

function shuffled(items) {
  const rest = [...items];
  const drawn = crypto.getRandomValues(new Uint32Array(rest.length));
  return items.map((_, place) => rest.splice(drawn[place] % rest.length, 1)[0]);
}

/** Whether the names of a turn are still secret. */
export function isHidden(turn) {
  return turn.blind && turn.vote === null;
}

/** What a column is called: a letter where it is or was blind. */
export function labelOf(turn, place) {
  return turn.blind ? "ABCD"[place] : turn.stages[place];
}

/** The conversation as the server takes it, up to a turn. */
export function toWire(state, last = state.turns.at(-1)) {
  const turns = state.turns.slice(0, state.turns.indexOf(last) + 1).map(({ user, answers }) => ({
    user,
    answers: Object.fromEntries(Object.entries(answers).map(([stage, answer]) => [stage, answer.text])),
  }));
  return { system: last?.system ?? state.system, turns }; // the system text it was asked under
}

/** Read a saved conversation; throws an Error in words. */
export function fromFile(text) {
  let record;
  try {
    record = JSON.parse(text);
  } catch {
    throw new Error(`This file is no JSON; ${SCHEMA}.`);
  }
  if (typeof record?.system !== "string" || !Array.isArray(record.turns)) {
    throw new Error(`This file is no saved conversation; ${SCHEMA}.`);
  }
  return { system: record.system, turns: record.turns.map(readTurn) };
}

function readTurn(turn, place) {
  const answers = Object.entries(turn?.answers ?? [null]);
  if (typeof turn?.user !== "string" || !answers.every(([, text]) => typeof text === "string")) {
    throw new Error(`turns[${place}] of this file is no turn; ${SCHEMA}.`);
  }
  return {
    user: turn.user,
    stages: answers.map(([stage]) => stage),
    answers: Object.fromEntries(answers.map(([stage, saved]) => [stage, { text: saved }])),
    attempt: 0,
    blind: false,
    vote: null,
  };
}

// --- storage -----------------------------------------------------------------------------------------------

const keyOf = (run) => `fledge:run:${run}`;

/** Keep the state for the next visit: whole, or the settings alone where it is too large. */
export function remember(run, state) {
  const whole = JSON.stringify(state, (name, value) => (name === "views" ? undefined : value));
  const kept = whole.length <= MOST_CHARACTERS ? whole : JSON.stringify({ ...state, system: "", turns: [] });
  try {
    localStorage.setItem(keyOf(run), kept);
  } catch {
    forget(run); // full or switched off: an old state would be worse than none
  }
}

/** The state of the last visit, or null; settings that do not fit the run are replaced by the defaults. Its turns
 * are as they were kept: who draws them is ready for an error. */
export function recall(run, info) {
  try {
    const kept = JSON.parse(localStorage.getItem(keyOf(run)));
    return kept && checked(kept, info);
  } catch {
    forget(run);
    return null;
  }
}

/** Drop what was kept of a run. */
export function forget(run) {
  try {
    localStorage.removeItem(keyOf(run));
  } catch {}
}

function checked(kept, info) {
  const state = fresh(info);
  const names = info.stages.map((stage) => stage.name);
  const shown = names.filter((name) => kept.shown.includes(name)).slice(0, 4);
  for (const name of Object.keys(state.sampling)) {
    if (Number.isFinite(kept.sampling[name])) state.sampling[name] = kept.sampling[name];
  }
  if (typeof kept.system !== "string") throw new Error("not a state of this page");
  return {
    ...state,
    system: kept.system,
    turns: kept.turns,
    shown: shown.length ? shown : state.shown,
    reference: ["", ...names].includes(kept.reference) ? kept.reference : state.reference,
    plain: kept.plain !== false,
    blind: kept.blind === true,
  };
}
