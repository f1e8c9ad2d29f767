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
  // A table that is sorted by a click on a heading and filtered by a word.
  sortable(box) {
    const table = box.querySelector("table"), body = table.tBodies[0], number = (text) => parseFloat(text.replace(/,/g, ""));
    for (const [i, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = Object.assign(document.createElement("button"), { textContent: head.textContent });
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending", by = (row) => row.cells[i].textContent.trim();
        const order = (a, b) => (number(by(a)) - number(by(b))) || by(a).localeCompare(by(b));
        body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
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
