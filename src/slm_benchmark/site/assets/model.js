// The page of a model: shows where a number comes from, and copies commands.
// Without this script a number leads to its line in the table of records.
(() => {
  "use strict";

  const { element } = window.slm;

  // ── copying ──

  async function copy(code) {
    try {
      await navigator.clipboard.writeText(code.textContent);
      return true;
    } catch {
      // A page opened from a folder may lack the clipboard; what is selected can be copied still.
      getSelection().selectAllChildren(code);
      return document.execCommand("copy");
    }
  }

  function addCopyButton(code, what) {
    const button = element("button", { type: "button", class: "slm-copy" }, "Copy");
    button.setAttribute("aria-label", `Copy ${what}`);
    const said = element("output", {});
    button.addEventListener("click", async () => {
      said.textContent = "";
      const done = await copy(code);
      said.textContent = done ? "copied" : "selected: press Ctrl+C";
    });
    code.after(button, said);
  }

  document
    .querySelectorAll("code[data-copy]")
    .forEach((code) => addCopyButton(code, code.dataset.copy));

  // ── where a number comes from ──

  const title = element("h2", { id: "slm-source-title" });
  const facts = element("dl", {});
  const dialog = element(
    "dialog",
    { class: "slm-source", "aria-labelledby": title.id },
    element(
      "form",
      { method: "dialog" },
      title,
      element("button", { class: "slm-close", "aria-label": "Close" }, "✕"),
    ),
    facts,
  );

  function addFact(term, ...content) {
    const fact = element("dd", {}, ...content);
    facts.append(element("div", {}, element("dt", {}, term), fact));
    fact.querySelectorAll("code").forEach((code) => addCopyButton(code, term.toLowerCase()));
  }

  // The cells of a line, each named by the head of its column. `verify` asks scores again, whose lines
  // name what they share with others; profiles have lines of their own.
  function addLine(line, prefix = "") {
    const heads = line.closest("table").tHead.rows[0].cells;
    [...line.cells].forEach((cell, column) => {
      if (cell.tagName === "TH") return;
      const head = heads[column].textContent;
      addFact(prefix + head, ...cell.cloneNode(true).childNodes);
      const record = head === "Record" && line.dataset.source && cell.querySelector("code");
      if (!record) return;
      addFact(`${prefix}Verify`, element("code", {}, `slm-benchmark verify ${record.textContent}`));
    });
  }

  function shared(line) {
    return line.dataset.source.split(" ").filter(Boolean).map((id) => document.getElementById(id));
  }

  // A difference comes from two records: the variant's, and the base's for the same task.
  function baseOf(line, link) {
    const { base } = link.closest("table").dataset;
    return base && document.getElementById(`${base}/${line.id.split("/").pop()}`);
  }

  function show(line, link) {
    title.replaceChildren(...line.cells[0].cloneNode(true).childNodes);
    facts.replaceChildren();
    const number = link.closest("td");
    if (number) addFact("Value", number.innerText.trim().split(/\s*\n\s*/).join(", "));
    addLine(line);
    shared(line).forEach((other) => addLine(other));
    const base = baseOf(line, link);
    if (base) addLine(base, "The base: ");
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  document.querySelector(".md-content article").append(dialog);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside its content
  });

  document.querySelectorAll(".slm-table a[href^='#']").forEach((link) => {
    const line = document.getElementById(decodeURIComponent(link.hash.slice(1)));
    if (!line || !("source" in line.dataset)) return;
    link.setAttribute("aria-haspopup", "dialog");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      show(line, link);
    });
  });
})();
