// Light or dark, before anything is painted: what was chosen here, else what the system says.
// A plain script in the head, so that a reload in the dark does not flash.
"use strict";

(() => {
  const KEY = "fledge:theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const press = () => document.getElementById("theme").setAttribute("aria-pressed", String(isDark()));

  try {
    const chosen = localStorage.getItem(KEY);
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch {} // no storage: the system's choice

  document.addEventListener("DOMContentLoaded", () => {
    press();
    system.addEventListener("change", press);
    document.getElementById("theme").addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      press();
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {}
    });
  });
})();
