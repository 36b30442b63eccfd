// What the scripts of several pages need.
(() => {
  "use strict";

  // An element with attributes, of which null ones are left out. What comes from cards and records
  // enters as text.
  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => {
      if (value !== null) node.setAttribute(name, value);
    });
    node.append(...children);
    return node;
  }

  // A button with what a click does.
  function button(text, attributes, onClick) {
    const node = element("button", { type: "button", ...attributes }, text);
    node.addEventListener("click", onClick);
    return node;
  }

  const small = (...children) => element("small", {}, ...children);
  const UNKNOWN = { word: "not known", reason: "no record gives it" };

  // What a value was computed from: questions, tasks, or the rows of a tied group.
  function sampleSize(column, count) {
    const number = count.toLocaleString("en");
    if (column.kind === "task") return `n = ${number}`;
    const unit = column.key === "group" ? "row" : "task";
    return `${number} ${unit}${count === 1 ? "" : "s"}`;
  }

  // The content of a cell, on every page: a number with its interval and sample size, or a word with
  // its reason. How reasons, warnings and subsets are shown differs by page:
  // `explain(word, reason)`, `warn(column, warnings)` and `list(parts)` give nodes.
  function cellContent(column, index, { explain, warn, list }) {
    if (column.value(index) === null) {
      const { word, reason } = column.note(index) ?? UNKNOWN;
      return explain(word, reason);
    }
    const [interval, count, parts] = [column.interval(index), column.n(index), column.parts(index)];
    const isExact = column.kind === "identity" || column.key === "group";
    const limits = interval ? interval.map(column.show).join(" to ") : "no interval";
    return [
      column.show(column.value(index)),
      ...warn(column, column.warnings(index)),
      ...(isExact ? [] : [element("small", { class: "slm-limits" }, limits)]),
      ...(parts.length ? list(parts).map((node) => small(node)) : []),
      ...(count === null ? [] : [small(sampleSize(column, count))]),
    ];
  }

  // Hands a file to the reader.
  function save(blob, name) {
    const url = URL.createObjectURL(blob);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000); // after the browser has taken it
  }

  window.slm = Object.assign(window.slm ?? {}, { element, button, small, cellContent, save });
})();
