// Sorting and filtering of tables that are complete without this script.
(() => {
  "use strict";

  const missing = (cell) => cell.classList.contains("slm-missing");
  const number = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function compare(a, b) {
    const [x, y] = [number(a), number(b)];
    return Number.isNaN(x) || Number.isNaN(y)
      ? collator.compare(a.textContent.trim(), b.textContent.trim())
      : x - y;
  }

  function sort(table, column, direction, sameMachine) {
    const sign = direction === "descending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    if (direction === "none") {
      rows.sort((a, b) => a.dataset.position - b.dataset.position);
    } else {
      rows.sort((a, b) => {
        const [x, y] = [a.cells[column], b.cells[column]];
        return (
          missing(x) - missing(y) || // a missing value is last whatever the direction
          (sameMachine && collator.compare(a.dataset.machine, b.dataset.machine)) ||
          (missing(x) ? 0 : sign * compare(x, y)) ||
          a.dataset.position - b.dataset.position
        );
      });
    }
    body.append(...rows);
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    [...table.tBodies[0].rows].forEach((row, position) => (row.dataset.position = position));
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const first = head.dataset.first || "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const next = { none: first, [first]: second, [second]: "none" };
      button.addEventListener("click", () => {
        const direction = next[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", direction);
        sort(table, column, direction, "sameMachine" in head.dataset);
      });
    });
  }

  function makeFilterable(form) {
    const sections = [...document.querySelectorAll(".slm-protocol")];
    const output = form.querySelector("output");
    const apply = () => {
      const { protocol, quantization, model } = Object.fromEntries(new FormData(form));
      const words = model.toLowerCase().split(/\s+/).filter(Boolean);
      sections.forEach((section) => {
        section.hidden = section.dataset.protocol !== protocol;
        const rows = [...section.querySelectorAll("tbody tr")];
        rows.forEach((row) => {
          const name = row.dataset.model.toLowerCase();
          const wanted = !quantization || row.dataset.quantization === quantization;
          row.hidden = !(wanted && words.every((word) => name.includes(word)));
        });
        if (section.hidden) return;
        const shown = rows.filter((row) => !row.hidden).length;
        output.textContent = `${shown} of ${rows.length} rows`;
      });
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply)); // after the fields are reset
    form.hidden = false;
    apply();
  }

  document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
  document.querySelectorAll("form.slm-filters").forEach(makeFilterable);
})();
