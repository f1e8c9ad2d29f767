"use strict";
// Small things to play with. Everything they show is on the page without them, too.
const play = {
  // What a threshold would decide about the test images, in a sentence.
  threshold(box, told) {
    const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 1, step: 0.005, value: 0.5 });
    slider.setAttribute("aria-label", "threshold of the probability");
    const said = document.createElement("output");
    said.setAttribute("aria-live", "polite");
    const tell = () => {
      const called = told.probabilities.map((p) => p >= slider.value);
      const count = (label) => told.labels.filter((one) => one === label).length;
      const hit = (label) => told.labels.filter((one, i) => one === label && called[i]).length;
      said.textContent = `Called pneumonia from a probability of ${Number(slider.value).toFixed(3)}: `
        + `finds ${hit(1)} of ${count(1)} with pneumonia, and calls ${hit(0)} of ${count(0)} without it ill.`;
    };
    slider.addEventListener("input", tell);
    box.replaceChildren(slider, said);
    tell();
  },
  // Images with the evidence of each network: leafed through, compared by a slider, read cell by cell.
  maps(box, told) {
    const make = (name, more, ...inside) => {
      const one = Object.assign(document.createElement(name), more);
      one.append(...inside);
      return one;
    };
    const SIDE = 448, NO_ARM = { name: "image alone", outcomes: [], said: [] };
    const arms = [NO_ARM, ...told.arms].map((arm) => ({ ...arm, maps: arm.maps?.map((text) => Int8Array.from(atob(text), (one) => one.charCodeAt(0))) }));
    let image = 0, at = 1, cell = null;
    const canvas = make("canvas", { width: SIDE, height: SIDE, tabIndex: 0 }), pen = canvas.getContext("2d");
    canvas.setAttribute("role", "img");
    const slider = make("input", { type: "range", min: 0, max: arms.length - 1, step: 1, value: 1 });
    slider.setAttribute("aria-label", "which network's evidence lies on the image");
    const names = make("div", { className: "names" }, ...arms.map((arm) => make("span", { textContent: arm.name })));
    const said = make("output", {});
    said.setAttribute("aria-live", "polite");
    const pictures = told.images.map((data) => make("img", { src: `data:image/jpeg;base64,${data}`, alt: "" }));
    const thumbs = pictures.map((picture, i) => make("button", { type: "button", onclick: () => { image = i; draw(); } }, picture));
    thumbs.forEach((thumb, i) => thumb.setAttribute("aria-label", told.titles[i]));
    const outcomes = [...new Set(told.arms.flatMap((arm) => arm.outcomes))].filter(Boolean).sort();
    const choice = make("select", { onchange: () => draw() }, make("option", { value: "", textContent: "every outcome" }),
      ...outcomes.map((one) => make("option", { textContent: one })));
    choice.setAttribute("aria-label", "show only images with this outcome");
    const value = (arm) => arm.maps[image][cell[0] * arm.size[1] + cell[1]] * told.unit;
    const cells = (arm) => {
      const [left, top, right, bottom] = arm.windows[image].map((edge) => edge * SIDE), [rows, columns] = arm.size;
      return { left, top, rows, columns, wide: (right - left) / columns, high: (bottom - top) / rows };
    };
    const whole = (edges) => edges.every((edge, i) => edge === [0, 0, 1, 1][i]);
    const tell = (arm) => {
      const dark = !arm.maps || whole(arm.seen[image]) ? "" : whole(arm.windows[image]) ? " The dark border was painted black for this network."
        : " The dark border is cold by construction: this network never had it.";
      const where = cell && arm.maps ? ` Row ${cell[0] + 1}, column ${cell[1] + 1}: ${value(arm).toFixed(3).replace("-", "−")} logits, for ${value(arm) < 0 ? "NORMAL" : "PNEUMONIA"}.` : "";
      said.textContent = `${told.titles[image]}. ${arm.name[0].toUpperCase()}${arm.name.slice(1)}${arm.said[image] ? `: ${arm.said[image]}` : ""}.${dark}${where}`;
      canvas.setAttribute("aria-label", said.textContent);
    };
    const draw = () => {
      const arm = arms[at], by = arms[at || 1].outcomes;
      thumbs.forEach((thumb, i) => { thumb.hidden = choice.value && by[i] !== choice.value; });
      if (thumbs[image].hidden) image = Math.max(0, thumbs.findIndex((thumb) => !thumb.hidden));
      thumbs.forEach((thumb, i) => thumb.setAttribute("aria-pressed", i === image));
      [...names.children].forEach((name, i) => name.classList.toggle("here", i === at));
      slider.setAttribute("aria-valuetext", arm.name);
      pen.drawImage(pictures[image], 0, 0, SIDE, SIDE);
      if (arm.maps) {
        const { left, top, rows, columns, wide, high } = cells(arm);
        if (cell) cell = [Math.min(cell[0], rows - 1), Math.min(cell[1], columns - 1)];
        arm.maps[image].forEach((one, i) => {
          pen.fillStyle = one < 0 ? "#2166ac" : "#b2182b";
          pen.globalAlpha = 0.8 * Math.min(1, Math.abs(one) / told.full) ** 1.2;
          pen.fillRect(left + (i % columns) * wide, top + Math.floor(i / columns) * high, wide, high);
        });
        const [x0, y0, x1, y1] = arm.seen[image].map((edge) => edge * SIDE);
        pen.globalAlpha = 0.7;
        pen.fillStyle = "#000";
        for (const hidden of [[0, 0, SIDE, y0], [0, y1, SIDE, SIDE - y1], [0, y0, x0, y1 - y0], [x1, y0, SIDE - x1, y1 - y0]]) pen.fillRect(...hidden);
        pen.globalAlpha = 1;
        pen.strokeStyle = "#fff";
        if (cell) pen.strokeRect(left + cell[1] * wide, top + cell[0] * high, wide, high);
      }
      tell(arm);
    };
    slider.addEventListener("input", () => { at = Number(slider.value); draw(); });
    const move = (row, column) => {
      const { rows, columns } = cells(arms[at]);
      cell = row < 0 || column < 0 || row >= rows || column >= columns ? null : [row, column];
      draw();
    };
    canvas.addEventListener("pointermove", (event) => {
      if (!at) return;
      const { left, top, wide, high } = cells(arms[at]), scale = SIDE / canvas.clientWidth;
      move(Math.floor((event.offsetY * scale - top) / high), Math.floor((event.offsetX * scale - left) / wide));
    });
    canvas.addEventListener("pointerleave", () => { cell = null; draw(); });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step || !at) return;
      event.preventDefault();
      const { rows, columns } = cells(arms[at]), [row, column] = cell || [Math.floor(rows / 2), Math.floor(columns / 2)];
      move(Math.min(rows - 1, Math.max(0, row + step[0])), Math.min(columns - 1, Math.max(0, column + step[1])));
    });
    const chosen = outcomes.length > 1 ? [choice] : [], many = thumbs.length > 1 ? [make("div", { className: "thumbs" }, ...thumbs)] : [];
    const legend = make("p", { className: "legend", textContent: `Red speaks for PNEUMONIA, blue for NORMAL; full colour from ±${(told.full * told.unit).toPrecision(2)} logits a cell.` });
    box.replaceChildren(make("div", {}, canvas, slider, names), make("div", {}, ...chosen, ...many, said, legend));
    box.classList.add("live");
    Promise.all(pictures.map((picture) => picture.decode())).then(draw);
  },
  // A table that is sorted by a click on a heading and filtered by a word.
  sortable(box) {
    const table = box.querySelector("table"), body = table.tBodies[0], number = (text) => parseFloat(text.replace(/,/g, ""));
    for (const [i, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = Object.assign(document.createElement("button"), { textContent: head.textContent });
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending", by = (row) => row.cells[i].textContent.trim();
        const missing = (row) => by(row) === "–", order = (a, b) => (number(by(a)) - number(by(b))) || by(a).localeCompare(by(b));
        body.append(...[...body.rows].sort((a, b) => (missing(a) - missing(b)) || (up ? order(a, b) : order(b, a))));
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
      });
      head.replaceChildren(button);
    }
    const filter = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter" });
    filter.setAttribute("aria-label", "show only rows that hold this");
    filter.addEventListener("input", () => {
      for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(filter.value.toLowerCase());
    });
    box.prepend(filter);
  },
};
for (const box of document.querySelectorAll("[data-play]")) play[box.dataset.play](box, JSON.parse(box.dataset.told || "{}"));
// A page as slides: each begins where its notebook says so; #slides in the address shows them one at a time.
const starts = [...document.querySelectorAll("[data-slide]")];
let slide = 0;
const present = () => {
  const on = location.hash === "#slides" && starts.length > 0;
  document.body.classList.toggle("slides", on);
  let at = 0;
  for (const one of document.querySelector("main").children) {
    if (starts.includes(one)) at = starts.indexOf(one);
    one.classList.toggle("off", on && (at !== slide || one.classList.contains("about") || one.classList.contains("next")));
  }
  if (!on) return;
  document.querySelector("main").dataset.slideNumber = `${slide + 1} / ${starts.length}`;
  scrollTo(0, 0);
};
addEventListener("hashchange", present);
addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1, Home: -starts.length, End: starts.length }[event.key];
  if (!document.body.classList.contains("slides") || event.target.matches("input, canvas, select")) return;
  if (event.key === "Escape") location.hash = "";
  if (!step) return;
  event.preventDefault();
  slide = Math.min(Math.max(slide + step, 0), starts.length - 1);
  present();
});
present();
addEventListener("beforeprint", () => document.querySelectorAll("details.more").forEach((one) => { one.open = true; }));
// What scrolls can be reached by the keyboard.
const reach = () => {
  for (const one of document.querySelectorAll("pre, .wide, .picture, .hero, .thumbs, section.text, [class*='output_']")) {
    if (one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight) one.tabIndex = 0;
  }
};
addEventListener("resize", reach);
document.addEventListener("toggle", reach, true);
reach();
