// The leaderboard: filters, sorting, columns, weights and pages over the rows of one protocol. What
// is shown is a state; the address holds what differs from the default, so that a link shows the
// same. The page is complete without this script; it then shows a table of the first rows.
(() => {
  "use strict";

  const { slm } = window;
  const { element } = slm;
  const form = document.querySelector(".slm-filters");
  if (!form) return;

  const PAGE_ROWS = 100;
  const COMPARED = 4;
  const Z95 = 1.959963984540054;
  const SIZES = { "0-0.5": [0, 0.5], "0.5-1": [0.5, 1], "1-3": [1, 3] };
  const FAMILIES = { base: "FP16, base", gptq: "GPTQ", awq: "AWQ", gguf: "GGUF" };
  const SPEED = "generation_throughput_tokens_per_s";
  const MEMORY = ["device_peak_memory_bytes", "peak_memory_bytes"];
  const ALL = "all";

  const find = (selector) => document.querySelector(selector);
  const out = {
    board: find(".slm-board"),
    chips: find(".slm-chips"),
    compare: find(".slm-compare"),
    count: form.querySelector("output"),
    empty: find(".slm-empty"),
    pages: find(".slm-pages"),
    weights: find(".slm-weights"),
  };
  const picked = new Set(); // ids of rows to compare
  let board;
  let state;
  let waiting; // the timer of letters that are being typed
  let shown; // indices of the rows that pass all filters, in order

  // ── state and address ──

  const protocols = [...form.elements.protocol.options].map((option) => option.value);
  const listed = (text) => (text ? text.split(",") : []);

  function defaults() {
    return {
      protocol: protocols[0], hw: "", find: "", size: [], quant: [], license: "", lang: "", tag: "",
      gb: "", tps: "", cols: "", sort: "", weights: new Map(), page: 1,
    };
  }

  function readState() {
    const hash = slm.readHash();
    const text = (key) => hash.get(key) ?? "";
    const known = (key, values) => (values.includes(text(key)) ? text(key) : "");
    return {
      ...defaults(),
      protocol: protocols.includes(text("protocol")) ? text("protocol") : protocols[0],
      hw: text("hw"), find: text("find"),
      size: listed(text("size")).filter((size) => size in SIZES),
      quant: listed(text("quant")).filter((family) => family in FAMILIES),
      license: text("license"), lang: text("lang"), tag: text("tag"),
      gb: positive(text("gb")), tps: positive(text("tps")),
      cols: known("cols", ["categories", "tasks", "hardware"]),
      sort: text("sort"),
      weights: readWeights(text("w")),
      page: Math.max(1, Math.trunc(Number(text("page"))) || 1),
    };
  }

  const positive = (text) => (Number(text) > 0 ? text : "");

  function readWeights(text) {
    const pairs = listed(text).map((pair) => pair.split(":"));
    const valid = pairs.filter(([, weight]) => weight !== "" && Number(weight) >= 0);
    return new Map(valid.map(([category, weight]) => [category, Number(weight)]));
  }

  // Only what differs from the default, so that a link stays short and outlives other changes.
  function address() {
    const weights = [...state.weights].map((pair) => pair.join(":")).join(",");
    const all = {
      protocol: state.protocol === protocols[0] ? "" : state.protocol,
      hw: state.hw, find: state.find.trim(), size: state.size.join(","), quant: state.quant.join(","),
      license: state.license, lang: state.lang, tag: state.tag, gb: state.gb, tps: state.tps,
      cols: state.cols, sort: state.sort, w: weights, page: state.page > 1 ? state.page : "",
    };
    const text = slm.writeHash(Object.entries(all).filter(([, value]) => value !== ""));
    return text ? `#${text}` : location.pathname + location.search;
  }

  // A choice is a step that Back undoes; letters of a word that is being typed are one step.
  function remember(typing) {
    const method = typing ? "replaceState" : "pushState";
    if (location.hash !== (address().startsWith("#") ? address() : "")) history[method](null, "", address());
  }

  // ── filters ──

  const memory = (index) => {
    const key = MEMORY.find((name) => board.columns.get(name)?.value(index) != null);
    return key ? board.columns.get(key).value(index) : null;
  };
  const speed = (index) => board.columns.get(SPEED).value(index);
  const billions = (row) => row.model.parameters / 1e9;

  // The rows of the chosen machine.
  function onMachine() {
    const rows = Array.from({ length: board.count }, (_, index) => index);
    if (state.hw === ALL) return rows;
    const [hardware] = state.hw.split(" ");
    return rows.filter((index) => {
      const { machine } = board.row(index);
      // A row without a profile is called by the hardware's id, whichever machine that was.
      return machine === state.hw || machine === hardware;
    });
  }

  // Each filter in use: what its chip says, which rows pass, and how to take it back.
  function filters() {
    const active = [];
    const add = (key, label, passes, nothing) => active.push({ key, label, passes, nothing });
    if (state.find.trim()) {
      const texts = Array.from({ length: board.count }, (_, index) => searched(board.row(index)));
      const hits = slm.search(state.find, texts);
      add("find", `“${state.find.trim()}”`, (row) => hits[row.index], "");
    }
    if (state.size.length) {
      const spans = state.size.map((size) => SIZES[size]);
      const inside = (row) => spans.some(([low, high]) => billions(row) > low && billions(row) <= high);
      add("size", `${state.size.map((size) => `${size.replace("-", "–")} B`).join(" or ")}`, inside, []);
    }
    if (state.quant.length) {
      const names = state.quant.map((family) => FAMILIES[family]).join(" or ");
      add("quant", names, (row) => state.quant.includes(row.family), []);
    }
    if (state.license) add("license", `license ${state.license}`, (row) => row.model.license === state.license, "");
    if (state.lang) add("lang", language(state.lang), speaks, "");
    if (state.tag) add("tag", `tag ${state.tag}`, (row) => row.model.tags.includes(state.tag), "");
    if (state.gb) {
      add("gb", `fits in ${state.gb} GB`, (row) => {
        const used = memory(row.index);
        return used !== null && used <= 1000 * Number(state.gb);
      }, "");
    }
    if (state.tps) {
      add("tps", `at least ${state.tps} tokens/s`, (row) => {
        const rate = speed(row.index);
        return rate !== null && rate >= Number(state.tps);
      }, "");
    }
    return active;
  }

  const searched = (row) => (row.searched ??= `${row.model.name} ${row.model.id} ${row.variant}`);

  function speaks(row) {
    const { languages } = row.model;
    return state.lang === "multilingual" ? languages.length > 1 : languages.includes(state.lang);
  }

  function language(code) {
    if (code === "multilingual") return "multilingual";
    try {
      return new Intl.DisplayNames(["en"], { type: "language" }).of(code) ?? code;
    } catch {
      return code; // not a code that the browser knows
    }
  }

  // ── columns ──

  const identity = {
    model: { key: "model", title: "Model", text: (row) => row.model.name },
    variant: { key: "variant", title: "Variant", text: (row) => row.variant },
    machine: { key: "machine", title: "Hardware", text: (row) => row.machine },
  };

  const parameters = {
    key: "parameters", title: "Parameters", unit: "B", kind: "identity", fields: ["value", "note"], better: null, sameMachine: false,
    show: slm.shows.three,
    value: (index) => billions(board.row(index)), interval: () => null, n: () => null, note: () => null, warnings: () => [], parts: () => [],
  };

  function column(key) {
    if (key === "parameters") return parameters;
    if (key === "overall" && state.weights.size) return weighted();
    if (key === "group" && state.weights.size) return unranked();
    return board.columns.get(key);
  }

  const unranked = () => ({
    ...board.columns.get("group"),
    value: () => null,
    note: () => ({ word: "none", reason: "tied groups exist for equal category weights only" }),
  });

  function chosenColumns() {
    const page = state.cols || "overview";
    const columns = [...board.columns.values()].filter(({ pages }) => pages.includes(page)).map(({ key }) => column(key));
    return page === "overview" ? [parameters, ...columns] : columns;
  }

  // The overall score with a reader's weights. The categories share no documents, so their errors
  // add in squares, as statistics/mover.py adds them; docs/methods/methodology.md has the source.
  function weighted() {
    const parts = board.categories.map((category) => ({
      column: board.columns.get(`category:${category}`),
      weight: state.weights.get(category) ?? 1,
    })).filter(({ weight }) => weight > 0);
    const total = parts.reduce((sum, { weight }) => sum + weight, 0);
    const terms = (index) => parts.map(({ column: part, weight }) => ({
      value: part.value(index), interval: part.interval(index), share: weight / total, part,
    }));
    const lacking = (index) => terms(index).find((term) => term.value === null);
    const value = (index) =>
      !parts.length || lacking(index) ? null : terms(index).reduce((sum, t) => sum + t.share * t.value, 0);
    const interval = (index) => {
      const categories = terms(index);
      if (value(index) === null || categories.some((term) => term.interval === null)) return null;
      return [value(index) - distance(categories, 0), value(index) + distance(categories, 1)];
    };
    return {
      ...board.columns.get("overall"),
      title: "Overall, custom weights",
      value, interval, n: () => null, warnings: () => [],
      note: (index) => {
        if (!parts.length) return { word: "none", reason: "all weights are zero" };
        const missing = lacking(index);
        return missing ? { word: "none", reason: `no score in the category ${missing.part.title}` } : null;
      },
    };
  }

  function distance(terms, side) {
    const errors = terms.map(({ share, interval }) => (share * (interval[1] - interval[0])) / 2 / Z95);
    const total = Math.hypot(...errors);
    const limits = terms.map(({ share, value, interval }) => share * Math.abs(interval[side] - value));
    const reached = limits.map((limit, position) => {
      const part = total > 0 ? errors[position] / total : 1;
      return Z95 * errors[position] + part * (limit - Z95 * errors[position]);
    });
    return Math.min(Math.hypot(...reached), limits.reduce((sum, limit) => sum + limit, 0));
  }

  // ── order ──

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const sorting = () => ({ key: state.sort.replace(/^-/, ""), descending: state.sort.startsWith("-") });
  const severalMachines = () => state.hw === ALL && board.machines.length > 1;

  function order(indices) {
    const { key, descending } = sorting();
    const sign = descending ? -1 : 1;
    if (key in identity) {
      const texts = new Map(indices.map((index) => [index, identity[key].text(board.row(index))]));
      return indices.sort((a, b) => sign * collator.compare(texts.get(a), texts.get(b)) || a - b);
    }
    const by = column(key);
    if (!by || (by.sameMachine && severalMachines())) return indices;
    const values = new Map(indices.map((index) => [index, by.value(index)]));
    return indices.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      // A missing value is last whichever way; equal ones keep their order.
      return (x === null) - (y === null) || (x === null ? 0 : sign * (x - y)) || a - b;
    });
  }

  // ── drawing ──

  function draw() {
    const total = onMachine();
    const used = filters();
    shown = order(total.filter((index) => used.every(({ passes }) => passes(board.row(index)))));
    state.page = Math.min(state.page, Math.max(1, Math.ceil(shown.length / PAGE_ROWS)));
    drawChips(used);
    drawCount(total, used);
    drawEmpty(total, used);
    drawTable();
    drawPages();
    drawCompare();
  }

  function drawChips(used) {
    const weights = state.weights.size ? [{ key: "weights", label: "custom category weights", nothing: new Map() }] : [];
    out.chips.replaceChildren(...[...used, ...weights].map(({ key, label, nothing }) => {
      const chip = element("button", { type: "button", class: "slm-chip", "aria-label": `Remove filter: ${label}` }, element("bdi", {}, label), " ×");
      chip.addEventListener("click", () => {
        set({ [key]: nothing })
          .then(() => (out.chips.querySelector("button") ?? form.elements.find).focus())
          .catch(fail);
      });
      return chip;
    }));
  }

  function drawCount(total, used) {
    const unknown = (key, known) => {
      if (!used.some((filter) => filter.key === key)) return 0;
      const others = used.filter((filter) => filter.key !== key);
      return total.filter((i) => known(i) === null && others.every(({ passes }) => passes(board.row(i)))).length;
    };
    const hidden = [
      [unknown("gb", memory), "whose memory was not measured"],
      [unknown("tps", speed), "whose speed was not measured"],
    ].filter(([count]) => count).map(([count, why]) => `; ${count} ${why} ${count === 1 ? "is" : "are"} hidden`);
    out.count.textContent = `${shown.length} of ${total.length} rows${hidden.join("")}`;
  }

  // Where nothing is left: the one filter without which most rows would be there.
  function drawEmpty(total, used) {
    out.empty.hidden = shown.length > 0;
    if (shown.length) return;
    const without = used.map((filter) => {
      const others = used.filter((other) => other !== filter);
      return { ...filter, rows: total.filter((i) => others.every(({ passes }) => passes(board.row(i)))).length };
    });
    const best = without.reduce((a, b) => (b.rows > (a?.rows ?? 0) ? b : a), null);
    if (best) {
      const rows = `${best.rows} ${best.rows === 1 ? "row" : "rows"}`;
      out.empty.replaceChildren(
        "No row passes all filters. Without ", element("strong", {}, element("bdi", {}, best.label)), ` there would be ${rows}. `,
        slm.button("Remove this filter", {}, () => set({ [best.key]: best.nothing })),
      );
    } else {
      out.empty.replaceChildren(
        used.length ? "No row passes all filters, nor would one with a single filter less. " : "There is no row on this hardware. ",
        slm.button("Remove all filters", {}, () => form.reset()),
      );
    }
  }

  function drawTable() {
    const columns = chosenColumns();
    const focused = document.activeElement?.dataset?.sort;
    const machines = board.machines.length > 1 ? [identity.machine] : [];
    const heads = [identity.model, identity.variant, ...machines, ...columns];
    const rows = shown.slice((state.page - 1) * PAGE_ROWS, state.page * PAGE_ROWS);
    const table = element(
      "table", { class: "slm-table" },
      element("caption", { class: "slm-unseen" }, `${board.title}, ${state.cols || "overview"}`),
      element("thead", {}, element("tr", {}, ...heads.map(head))),
      element("tbody", {}, ...rows.map((index) => tableRow(board.row(index), machines, columns))),
    );
    const frame = element("div", { class: "slm-scroll", tabindex: "0", role: "region", "aria-label": `Leaderboard: ${board.title}` }, table);
    const left = out.board.firstChild?.scrollLeft ?? 0;
    out.board.replaceChildren(frame);
    frame.scrollLeft = left;
    out.board.hidden = !shown.length;
    if (focused) out.board.querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus();
  }

  function head(of) {
    const { key, descending } = sorting();
    const node = element("th", { scope: "col" });
    node.setAttribute("aria-sort", of.key !== key ? "none" : descending ? "descending" : "ascending");
    const button = element("button", { type: "button", "data-sort": of.key, title: columnHelp(of.key) }, of.title, " ");
    if (of.unit) button.append(element("small", {}, of.unit));
    if (of.sameMachine && severalMachines()) {
      button.disabled = true;
      button.title = "Choose one hardware to sort by this: it is comparable on one machine only.";
      node.setAttribute("aria-sort", "none");
    }
    node.append(button);
    return node;
  }

  // The sentences on a column in the list of terms below the table.
  const columnHelp = (key) =>
    find(`[data-columns~="${CSS.escape(key.split(":")[0])}"] dd`)?.textContent ?? null;

  function tableRow(row, machines, columns) {
    const pick = element("input", { type: "checkbox", class: "slm-pick", checked: picked.has(row.id) ? "" : null, "data-pick": row.id, "aria-label": `Compare ${row.model.name} ${row.variant}` });
    pick.disabled = picked.size >= COMPARED && !picked.has(row.id);
    const link = element("a", { href: row.page }, element("bdi", {}, row.model.name));
    const name = element("th", { scope: "row" }, element("span", { class: "slm-name" }, pick, link));
    if (row.model.reference) name.append(element("small", {}, "reference, unranked"));
    const cells = [element("td", { class: "slm-word" }, row.variant)];
    cells.push(...machines.map(() => element("td", { class: "slm-word", title: row.hardwareTitle }, row.machine)));
    cells.push(...columns.map((of) => cell(of, row.index)));
    return element("tr", { "data-id": row.id }, name, ...cells);
  }

  function cell(of, index) {
    const isMissing = of.value(index) === null;
    return element("td", { class: isMissing ? "slm-missing" : "slm-number" }, ...slm.cellContent(of, index, CELL));
  }

  // How this page shows reasons, warnings behind a mark, and the subsets of a task.
  const CELL = {
    explain: (word, reason) => [explained(word, reason)],
    warn: (of, warnings) => (warnings.length ? [explained(mark(of, warnings), warnings.join("; "), "slm-warning")] : []),
    list: (parts) => [explained(parts.length > 1 ? `${parts.length} subsets` : parts[0], parts.join(", "))],
  };

  function mark(of, warnings) {
    if (of.kind === "task") return "*";
    if (of.kind !== "performance") return "‡";
    return warnings.every((warning) => warning.startsWith("energy ")) ? "ᵉ" : "†";
  }

  // A word whose reason shows on pointing, and under it on a click, a tap or a key.
  function explained(word, reason, className = "") {
    return element("button", { type: "button", class: `slm-why ${className}`, title: reason, "data-why": reason, "aria-expanded": "false" }, word);
  }

  function toggleReason(button) {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) button.nextElementSibling.remove();
    else button.after(element("small", { class: "slm-reason" }, button.dataset.why));
  }

  function drawPages() {
    const last = Math.ceil(shown.length / PAGE_ROWS);
    out.pages.hidden = last < 2;
    const step = (text, page) => {
      const disabled = page < 1 || page > last ? "" : null;
      return slm.button(text, { disabled }, () => {
        set({ page });
        out.board.scrollIntoView({ block: "start" });
      });
    };
    const from = (state.page - 1) * PAGE_ROWS + 1;
    const to = Math.min(state.page * PAGE_ROWS, shown.length);
    out.pages.replaceChildren(
      step("First", state.page === 1 ? 0 : 1), step("Previous", state.page - 1),
      element("span", {}, `Rows ${from} to ${to} of ${shown.length}`),
      step("Next", state.page + 1), step("Last", state.page === last ? last + 1 : last),
    );
  }

  function drawCompare() {
    out.compare.hidden = !picked.size;
    const words = picked.size === 1 ? "1 row" : `${picked.size} rows`;
    const full = picked.size >= COMPARED ? `, at most ${COMPARED}` : "";
    out.compare.textContent = `Compare ${words}${full}`;
    const hash = slm.writeHash([["protocol", state.protocol], ["rows", [...picked].join(",")]]);
    out.compare.href = `compare.html#${hash}`;
  }

  // ── controls ──

  function fillSelect(select, first, values, text = (value) => value) {
    select.replaceChildren(
      ...(first === null ? [] : [element("option", { value: "" }, first)]),
      ...values.map((value) => element("option", { value }, text(value))),
    );
  }

  // "t4, fingerprint 1a8f9b: NVIDIA T4 (Colab)"
  function machineLabel(machine, titles) {
    const [hardware, fingerprint] = machine.split(" ");
    return `${hardware}${fingerprint ? `, fingerprint ${fingerprint}` : ""}: ${titles.get(hardware)}`;
  }

  const distinct = (values) => [...new Set(values)].sort(collator.compare);

  function fillControls() {
    const { models, machines } = board;
    const titles = new Map(board.hardware.map(({ id, title }) => [id, title]));
    const several = machines.length > 1 ? [ALL] : [];
    fillSelect(form.elements.hw, null, [...machines, ...several], (machine) =>
      machine === ALL ? "all machines" : machineLabel(machine, titles));
    fillSelect(form.elements.license, "any", distinct(models.map((model) => model.license)));
    fillSelect(form.elements.tag, "any", distinct(models.flatMap((model) => model.tags)));
    const codes = distinct(models.flatMap((model) => model.languages)).filter((code) => code !== "en");
    fillSelect(form.elements.lang, "any", ["en", "multilingual", ...codes], language);
    out.weights.replaceChildren(...board.categories.map((category) => element(
      "label", {}, `${category} `,
      element("input", { type: "number", min: "0", max: "100", step: "any", name: `w:${category}`, inputmode: "decimal" }),
    )));
  }

  // The machine with most rows stands for those who choose none.
  function usualMachine() {
    const counts = new Map(board.machines.map((machine) => [machine, 0]));
    for (let index = 0; index < board.count; index += 1) {
      const { machine } = board.row(index);
      counts.set(machine, counts.get(machine) + 1);
    }
    return board.machines.reduce((a, b) => (counts.get(b) > counts.get(a) ? b : a));
  }

  // An address may name a hardware id alone; it means the first machine of that id.
  function knownMachine(name) {
    if (name === ALL && board.machines.length > 1) return ALL;
    return board.machines.find((machine) => machine === name) ?? board.machines.find((machine) => machine.split(" ")[0] === name);
  }

  function showControls() {
    // What is being typed is not in the state yet, and must not be overwritten with it.
    const typing = waiting ? document.activeElement : null;
    for (const name of ["protocol", "find", "license", "lang", "tag", "gb", "tps", "cols"]) {
      const field = form.elements[name];
      if (field !== typing && field.value !== state[name]) field.value = state[name];
    }
    form.elements.hw.value = state.hw;
    for (const name of ["size", "quant"]) {
      form.elements[name].forEach((box) => (box.checked = state[name].includes(box.value)));
    }
    board.categories.forEach((category) => {
      const field = form.elements[`w:${category}`];
      const weight = state.weights.get(category) ?? 1;
      if (field !== typing && (Number(field.value) !== weight || field.value === "")) field.value = weight;
    });
  }

  function readControls() {
    const text = (name) => form.elements[name].value;
    const checked = (name) => [...form.elements[name]].filter((box) => box.checked).map((box) => box.value);
    const weights = board.categories.map((category) => [category, form.elements[`w:${category}`].value]);
    return {
      protocol: text("protocol"), hw: text("hw"), find: text("find"), size: checked("size"), quant: checked("quant"),
      license: text("license"), lang: text("lang"), tag: text("tag"), gb: positive(text("gb")), tps: positive(text("tps")),
      cols: text("cols"),
      weights: new Map(weights.filter(([, w]) => w !== "" && Number(w) >= 0 && Number(w) !== 1).map(([c, w]) => [c, Number(w)])),
    };
  }

  // ── steps ──

  async function set(changes, { typing = false } = {}) {
    const moved = "page" in changes ? {} : { page: 1 };
    const other = "protocol" in changes && changes.protocol !== state.protocol;
    // Machines belong to a protocol's rows, and so do tasks.
    state = { ...state, ...moved, ...changes, ...(other ? { hw: "", sort: "", weights: new Map() } : {}) };
    if (other) picked.clear();
    await show();
    remember(typing);
  }

  let usual = "";

  async function show() {
    const requested = state;
    const loaded = await slm.load(state.protocol);
    const known = (key) => !key || key in identity || key === parameters.key || loaded.columns.has(key);
    const detailed = state.cols === "tasks" || state.cols === "hardware";
    if (detailed || !known(sorting().key)) await slm.loadDetails(loaded);
    if (requested !== state) return; // a later choice overtook this one
    if (loaded !== board) {
      board = loaded;
      fillControls();
      usual = usualMachine();
    }
    state.hw = knownMachine(state.hw) ?? usual;
    showControls();
    document.querySelectorAll("[data-protocol]").forEach((part) => (part.hidden = part.dataset.protocol !== state.protocol));
    draw();
    if (state.hw === usual) state.hw = ""; // not a choice, so not in the address
    form.hidden = false;
  }

  function fail(error) {
    form.hidden = true;
    out.board.hidden = true;
    out.empty.hidden = false;
    out.empty.textContent = `${error.message} The table below has the first rows.`;
    document.querySelector(".slm-static").classList.remove("slm-replaced");
    console.error(error);
  }

  function sortBy(key) {
    const { key: current, descending } = sorting();
    const better = key in identity ? "less" : column(key).better;
    const first = better === "more" ? `-${key}` : key;
    const second = first.startsWith("-") ? key : `-${key}`;
    const now = descending ? `-${current}` : current;
    set({ sort: now === first ? second : now === second ? "" : first });
  }

  // What names a row, and each field of a column, in the file that a reader saves.
  const identities = {
    model: (row) => row.model.id, name: (row) => row.model.name, variant: (row) => row.variant,
    hardware: (row) => row.hardware, machine: (row) => row.machine, protocol: () => state.protocol,
  };
  const fields = {
    value: (of, index) => of.value(index),
    low: (of, index) => of.interval(index)?.[0],
    high: (of, index) => of.interval(index)?.[1],
    n: (of, index) => of.n(index),
    note: (of, index) => {
      const note = of.note(index);
      return note ? `${note.word}: ${note.reason}` : of.warnings(index).join("; ");
    },
  };

  function csv() {
    const columns = chosenColumns().flatMap((of) => of.fields.map((field) => ({
      name: field === "value" ? of.key : `${of.key}_${field}`,
      read: (index) => fields[field](of, index) ?? "",
    })));
    const head = [...board.identity, ...columns.map(({ name }) => name)];
    const lines = shown.map((index) => [
      ...board.identity.map((name) => identities[name](board.row(index))),
      ...columns.map(({ read }) => read(index)),
    ]);
    return [head, ...lines].map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  // A text that a spreadsheet would take for a formula gets an apostrophe before it.
  function quoted(field) {
    const text = typeof field === "string" && /^[=+\-@\t\r]/.test(field) ? `'${field}` : String(field);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function saveCsv() {
    const file = new Blob([csv()], { type: "text/csv;charset=utf-8" });
    slm.save(file, `slm-benchmark-${state.protocol}.csv`);
  }

  // ── events ──

  const typed = new Set(["search", "number"]);

  form.addEventListener("input", (event) => {
    const typing = typed.has(event.target.type);
    clearTimeout(waiting);
    const apply = () => {
      waiting = undefined;
      set(readControls(), { typing }).catch(fail);
    };
    if (typing) waiting = setTimeout(apply, 30);
    else apply();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault(); // the controls follow the state
    set({ ...defaults(), protocol: state.protocol, cols: state.cols }).catch(fail);
  });
  form.querySelector("[data-do=csv]").addEventListener("click", saveCsv);
  out.board.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button?.dataset.sort) sortBy(button.dataset.sort);
    else if (button?.dataset.why) toggleReason(button);
  });
  out.board.addEventListener("change", ({ target }) => {
    if (!target.dataset.pick) return;
    if (target.checked) picked.add(target.dataset.pick);
    else picked.delete(target.dataset.pick);
    out.board.querySelectorAll(".slm-pick").forEach((box) => (box.disabled = picked.size >= COMPARED && !box.checked));
    drawCompare();
  });
  addEventListener("popstate", () => {
    state = readState();
    show().catch(fail);
  });

  state = readState();
  // A phone shows the table first; the filters in use stand as chips above it.
  if (matchMedia("(max-width: 44em)").matches) find(".slm-more").open = false;
  show().then(() => document.querySelector(".slm-static").classList.add("slm-replaced")).catch(fail);
})();
