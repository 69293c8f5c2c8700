"use strict";
(() => {
  const root = document.documentElement, theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = () => { try { return localStorage.getItem("alignflow-theme"); } catch { return null; } };
  const remember = (name) => { try { localStorage.setItem("alignflow-theme", name); } catch { /* a frame without a store */ } };
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  const show = () => {
    theme.setAttribute("aria-pressed", isDark());
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Switch to ${theme.textContent.toLowerCase()} colours`);
  };
  if (remembered()) root.dataset.theme = remembered();
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; remember(root.dataset.theme); show(); });
  dark.addEventListener("change", show);
  show();

  for (const step of document.querySelectorAll(".graph .step")) {
    const arrows = [...step.closest("svg").querySelectorAll(".arrow")]
      .filter((a) => a.dataset.from === step.id || a.dataset.to === step.id);
    const mark = (on) => {
      step.closest("svg").classList.toggle("chosen", on);
      for (const a of arrows) a.classList.toggle("on", on);
    };
    for (const event of ["mouseenter", "focus"]) step.addEventListener(event, () => mark(true));
    for (const event of ["mouseleave", "blur"]) step.addEventListener(event, () => mark(false));
  }

  const cards = document.getElementById("cards");
  if (cards) {
    const all = [...cards.children], step = Number(cards.dataset.shown);
    const [controls, order, search, count, more] =
      ["controls", "order", "search", "count", "more"].map((id) => document.getElementById(id));
    const texts = new Map(all.map((card) => [card, card.textContent.toLowerCase()]));
    let limit = step;
    const update = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = all.filter((card) => words.every((word) => texts.get(card).includes(word)));
      fits.sort((a, b) => a.dataset[order.value] - b.dataset[order.value]);
      for (const card of all) card.hidden = true;
      for (const card of fits.slice(0, limit)) { card.hidden = false; cards.append(card); }
      count.textContent = `${Math.min(limit, fits.length)} of ${fits.length} prompts`;
      more.hidden = fits.length <= limit;
    };
    for (const field of [order, search]) field.addEventListener("input", () => { limit = step; update(); });
    more.addEventListener("click", () => {
      const shown = cards.querySelectorAll(".card:not([hidden])").length;
      limit += step;
      update();
      const next = cards.querySelectorAll(".card:not([hidden])")[shown];
      if (next) { next.tabIndex = -1; next.focus(); }
    });
    controls.hidden = false;
    update();
  }

  const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [a.hash.slice(1), a]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const first = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) id === first ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }, { rootMargin: "-10% 0px -60% 0px" });
  for (const id of links.keys()) { const section = document.getElementById(id); if (section) watch.observe(section); }
})();
