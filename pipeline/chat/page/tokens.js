// An answer token by token: coloured by what the models thought of each, with the numbers in a tooltip.

import { isNumber, make, marked, number } from "./text.js";

// What a token can be coloured by: the value at which the colour is full, in nats (values: reward).
const SCALES = {
  logprob: { name: "log-prob", full: -5, low: "certain", high: "unlikely" },
  kl: { name: "KL", full: 2, low: "as the reference", high: "differs" },
  value: { name: "value", full: -1, low: "good", high: "bad" },
};
const MOST = 70; // per cent of the colour in a token's ground: its text stays readable

let chosen = "logprob"; // one choice for all answers, until the page is left

/** The tokens of an answer and what they are coloured by; `reference` names the model of the KL. */
export function tokenView(views, label, reference) {
  const scales = Object.keys(SCALES).filter((scale) => views.some((view) => isNumber(view[scale])));
  if (!scales.includes(chosen)) chosen = scales[0];
  const tokens = views.map((view, place) => token(view, place, reference));
  const list = make("div", {
    class: "tokens", role: "listbox", dir: "auto",
    "aria-label": `Tokens of the answer of ${label}; arrow keys move`,
    keydown: (event) => move(event, tokens),
  }, ...tokens);
  const legend = make("p", { class: "legend soft" });
  const choose = make("select", {
    "aria-label": "Colour tokens by",
    change: () => {
      chosen = choose.value;
      paint(views, tokens, legend);
    },
  }, ...scales.map((scale) => make("option", { value: scale }, SCALES[scale].name)));
  choose.value = chosen;
  paint(views, tokens, legend);
  return make("div", {}, list, make("div", { class: "row" }, choose, legend));
}

function token(view, place, reference) {
  const element = make("span", {
    class: "token", role: "option", tabindex: place ? "-1" : "0", "aria-selected": "false",
    focus: () => showTip(element, view, reference),
    blur: hideTip,
    mouseenter: () => showTip(element, view, reference),
    mouseleave: hideTip,
  }, marked(view.text.replaceAll("\n", "\u21b5\n") || "\u00b7"));
  return element;
}

function paint(views, tokens, legend) {
  const { full, low, high } = SCALES[chosen];
  views.forEach((view, place) => {
    const share = isNumber(view[chosen]) ? Math.max(-1, Math.min(1, view[chosen] / full)) : 0;
    tokens[place].classList.toggle("cold", share < 0);
    tokens[place].style.setProperty("--share", `${Math.round(Math.abs(share) * MOST)}%`);
  });
  const ramp = make("span", { class: chosen === "value" ? "ramp both" : "ramp", "aria-hidden": "true" });
  legend.replaceChildren(`${low} `, ramp, ` ${high}`);
}

function move(event, tokens) {
  const place = tokens.indexOf(document.activeElement);
  const last = tokens.length - 1;
  const targets = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: last };
  if (event.key === "Escape") hideTip();
  if (!(event.key in targets)) return;
  event.preventDefault();
  const target = tokens[Math.max(0, Math.min(last, targets[event.key]))];
  for (const each of tokens) {
    each.tabIndex = each === target ? 0 : -1;
    each.setAttribute("aria-selected", String(each === target));
  }
  target.focus();
}

// --- the tooltip -------------------------------------------------------------------------------------------

const tip = document.getElementById("tip");
let described = null;

function showTip(element, view, reference) {
  hideTip();
  const { logprob, rank, kl, value } = view;
  const facts = [`log-prob ${number(logprob)}, rank ${rank}`];
  if (isNumber(kl)) facts.push(`KL to ${reference} ${number(kl)}`);
  if (isNumber(value)) facts.push(`value ${number(value)}`);
  tip.replaceChildren(
    make("p", {}, make("code", {}, marked(shown(view.text))), ` ${percent(logprob)}`),
    make("p", { class: "soft" }, facts.join(", ")),
    make("p", { class: "soft" }, "Most likely here:"),
    ...view.alternatives.map(alternative),
  );
  tip.hidden = false;
  described = element;
  element.setAttribute("aria-describedby", "tip");
  place(element);
}

function alternative({ text, logprob }) {
  const bar = make("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${4 * Math.exp(logprob)}rem`;
  const name = make("code", {}, marked(shown(text)));
  return make("p", { class: "alternative" }, name, bar, ` ${percent(logprob)}`);
}

/** Hide the tooltip, of whatever token it is. */
export function hideTip() {
  tip.hidden = true;
  described?.removeAttribute("aria-describedby");
  described = null;
}

/** The log scrolls: the tooltip goes with a token that has the focus, which may be why it scrolls, else away. */
export function followScroll() {
  if (described && described === document.activeElement) place(described);
  else hideTip();
}

/** Put the tooltip below the token's first line, or above it where there is no room, within the window. */
function place(element) {
  const box = element.getClientRects()[0] ?? element.getBoundingClientRect();
  const below = box.bottom + 6;
  const fits = below + tip.offsetHeight < innerHeight;
  tip.style.top = `${fits ? below : Math.max(4, box.top - tip.offsetHeight - 6)}px`;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
}

/** A token's text with its spaces to be seen. */
function shown(text) {
  return text.replaceAll(" ", "\u2423").replaceAll("\n", "\u21b5") || "(nothing)";
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return share > 0 && share < 0.1 ? "< 0.1 %" : `${share.toFixed(1)} %`;
}
