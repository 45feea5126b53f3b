// Elements and texts. What a model, a user or the server wrote enters the page here, and only as text.

const BIDI = {
  "\u061c": "ALM", "\u200e": "LRM", "\u200f": "RLM", "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF",
  "\u202d": "LRO", "\u202e": "RLO", "\u2066": "LRI", "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI",
};

// What cannot be seen but hides or reorders what is around it. Tab and line feed stay; so do the zero-width
// joiners, which emoji and several scripts need.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f" +
    "\\u202a-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]",
  "g",
);

/** Make an element; a function among the attributes listens, null and false leave an attribute out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A text as nodes; each control character in it is a visible mark that cannot act. */
export function marked(text) {
  const nodes = document.createDocumentFragment();
  let end = 0;
  for (const { 0: character, index } of text.matchAll(UNSEEN)) {
    const code = codeOf(character);
    const mark = make("span", { class: "mark", title: code }, BIDI[character] ?? code);
    nodes.append(text.slice(end, index), mark);
    end = index + character.length;
  }
  nodes.append(text.slice(end));
  return nodes;
}

function codeOf(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

/** Whether there is a number; the server sends null where there is none. */
export function isNumber(value) {
  return typeof value === "number";
}

/** A number with two decimals and a true minus sign. */
export function number(value) {
  return value.toFixed(2).replace("-", "\u2212");
}

/** A number with its sign. */
export function signed(value) {
  return (value > 0 ? "+" : "") + number(value);
}

/** "1 token", "2 tokens". */
export function count(num, word) {
  return `${num} ${word}${num === 1 ? "" : "s"}`;
}
