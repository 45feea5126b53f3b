// The server's four addresses. Whatever goes wrong comes out as a ServerError in words for the user.

const GONE = "The server does not answer. Is fledge serve still running?";
const CUT = "The server ended before all answers were there. Try again.";
const TOKEN = "fledge:token";

export class ServerError extends Error {}

const token = takeToken();

/** The token of the address (#token=...), which leaves the address bar and stays for this tab. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname + location.search);
  try {
    if (given) sessionStorage.setItem(TOKEN, given);
    return given ?? sessionStorage.getItem(TOKEN);
  } catch {
    return given; // no storage: until the next reload
  }
}

/** The address of the report; a link cannot carry a header, so the token is in it. */
export function reportAddress() {
  return token ? `report?token=${encodeURIComponent(token)}` : "report";
}

/** What the run is: its stages, defaults and suggestions. */
export async function getRun() {
  return (await ask("api/run")).json();
}

/** Numbers and tokens of a finished answer. */
export async function getInsight(body) {
  return (await ask("api/insight", body)).json();
}

/** Save one vote; gives the number of votes so far. */
export async function sendVote(body) {
  return (await ask("api/votes", body)).json();
}

/** Yield the events of a reply as they arrive; ends early with AbortError when the signal is given. */
export async function* getReply(body, signal) {
  const response = await ask("api/reply", body, signal);
  for await (const line of linesOf(response.body)) {
    const event = parse(line);
    if (event.error) throw new ServerError(String(event.error.message));
    yield event;
  }
}

/** Whether all stages have answered is known to the caller; this is what to say if not. */
export function cutShort() {
  return new ServerError(CUT);
}

async function ask(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    const method = body ? "POST" : "GET";
    response = await fetch(path, { method, headers, body: JSON.stringify(body), signal });
  } catch (error) {
    throw inWords(error);
  }
  if (!response.ok) throw new ServerError(await messageOf(response));
  return response;
}

async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const lines = (rest + (value ?? "")).split("\n");
      rest = done ? "" : lines.pop();
      yield* lines.filter((line) => line.trim());
      if (done) return;
    }
  } catch (error) {
    throw inWords(error);
  } finally {
    reader.cancel().catch(() => {}); // left early: the server need not go on
  }
}

function parse(line) {
  try {
    return JSON.parse(line);
  } catch {
    throw cutShort();
  }
}

/** An abort stays what it is; any other failure of the network is in words. */
function inWords(error) {
  return error.name === "AbortError" || error instanceof ServerError ? error : new ServerError(GONE);
}

async function messageOf(response) {
  let message = `The server answered with status ${response.status}.`;
  try {
    message = String((await response.json()).error.message);
  } catch {} // not our server's form: the status has to do
  return response.status === 429 ? `The server is busy: ${message} Try again in a moment.` : message;
}
