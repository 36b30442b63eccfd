// Sorting of tables that are complete without this script.
// A column with `data-first` holds numbers: a cell's `data-value`, or else what the cell begins with.
(() => {
  "use strict";

  const missing = (cell) => cell.classList.contains("slm-missing");
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function number(cell) {
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const [shown] = cell.textContent.replaceAll(",", "").match(/[−-]?[\d.]+/) ?? [NaN];
    return Number(String(shown).replace("−", "-"));
  }

  function compareTexts(a, b) {
    return collator.compare(a.textContent.trim(), b.textContent.trim());
  }

  function compareNumbers(a, b) {
    const difference = number(a) - number(b);
    return Number.isNaN(difference) ? compareTexts(a, b) : difference;
  }

  function sort(table, column, direction) {
    const { first, sameMachine } = table.tHead.rows[0].cells[column].dataset;
    const compare = first === undefined ? compareTexts : compareNumbers;
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
          (sameMachine !== undefined &&
            collator.compare(a.dataset.machine, b.dataset.machine)) ||
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
        sort(table, column, direction);
      });
    });
  }

  document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
})();
