// Compares up to four rows of one protocol side by side. The address holds what is shown, so that
// a link, a reload and the Back key bring it again.
(() => {
  "use strict";

  const MOST = 4;
  const LISTED = 50; // options that the list offers at once
  const AXES = 3; // fewer enclose no area
  const SIGNIFICANT = "beyond-noise";

  const { element, small } = slm;
  const page = document.querySelector(".slm-comparing");
  if (!page) return; // an empty board has nothing to compare

  const part = (name) => page.querySelector(`[data-part="${name}"]`);
  const protocols = [...part("protocol").options].map((option) => option.value);

  // The table, the chosen rows and the state that are on the screen.
  let view = { board: null, state: null, rows: [] };

  const name = (row) => element("bdi", {}, row.model.name);
  const spoken = (row) => `${row.model.name} ${row.variant}, ${row.machine}`;

  // The number of a row, which its line in the charts has too.
  function swatch(position) {
    const number = String(position + 1);
    const looks = { class: "slm-swatch", "data-series": number, "aria-hidden": "true" };
    return element("span", looks, number);
  }

  // A button that keeps the focus when the page is drawn again: its key finds it.
  const button = (key, label, attributes, act) =>
    slm.button(label, { "data-key": key, ...attributes }, act);

  // The address

  function read() {
    const hash = slm.readHash();
    const list = (key) => [...new Set((hash.get(key) ?? "").split(",").filter(Boolean))];
    return {
      protocol: hash.get("protocol") ?? protocols[0],
      rows: list("rows"),
      only: list("only"),
      closed: list("closed"),
    };
  }

  function address(state) {
    const lists = { ...state, protocol: [state.protocol] };
    // An address of defaults alone names the protocol all the same: a browser answers an empty
    // one by scrolling to the top.
    if (state.protocol === protocols[0] && state.rows.length) delete lists.protocol;
    const entries = Object.entries(lists).filter(([, list]) => list.length);
    return slm.writeHash(entries.map(([key, list]) => [key, list.join(",")]));
  }

  let written = null; // the address that the page itself made last

  // Another choice is a step of the history, so Back returns to the one before it.
  function choose(change) {
    written = `#${address({ ...view.state, ...change })}`;
    location.hash = written;
  }

  // Another look at the same choice is no step.
  const look = (change) => location.replace(`#${address({ ...view.state, ...change })}`);

  const chosen = () => view.rows.map((index) => view.board.row(index).id);

  // Differences

  // Limits of a difference of two independent values from their own limits: the distances from
  // values to limits add in squares, on each side apart (Newcombe 1998; Zou and Donner 2008).
  function squareAndAdd(value, [low, high], reference, [lowest, highest]) {
    const difference = value - reference;
    return [
      difference - Math.hypot(value - low, highest - reference),
      difference + Math.hypot(high - value, reference - lowest),
    ];
  }

  function verdict([low, high], better) {
    if (low <= 0 && high >= 0) return "within";
    if (better === null) return "beyond";
    return low > 0 === (better === "more") ? "better" : "worse";
  }

  function signed(column, difference) {
    const text = column.show(Math.abs(difference));
    if (!/[1-9]/.test(text)) return text;
    return `${difference < 0 ? "−" : "+"}${text}`;
  }

  function shownDifference(column, difference, [low, high]) {
    return `${signed(column, difference)} [${signed(column, low)}, ${signed(column, high)}]`;
  }

  const digits = new Intl.NumberFormat("en", {
    minimumSignificantDigits: 3,
    maximumSignificantDigits: 3,
  });

  // The report's difference of the two rows, if one is a variant and the other its base.
  function pairOf(board, column, index, reference) {
    const [row, other] = [board.row(index), board.row(reference)];
    if (row.model.id !== other.model.id || row.hardware !== other.hardware) return null;
    const task = column.key.replace(/^task:/, "");
    if (other.variant === "base") return board.pair(index, task);
    const pair = row.variant === "base" ? board.pair(reference, task) : null;
    return pair && turned(pair);
  }

  // The same pair seen from the variant.
  function turned(pair) {
    const [low, high] = pair.interval;
    return { ...pair, difference: -pair.difference, interval: [-high, -low] };
  }

  function paired(column, pair) {
    return {
      shown: shownDifference(column, pair.difference, pair.interval),
      verdict: pair.within_floor ? "floor" : verdict(pair.interval, column.better),
      basis: `paired, n = ${pair.n.toLocaleString("en")} questions`,
      conclusion: pair.statement,
    };
  }

  function unpaired(column, index, reference) {
    const [value, from] = [column.value(index), column.value(reference)];
    const limits = squareAndAdd(value, column.interval(index), from, column.interval(reference));
    return {
      shown: shownDifference(column, value - from, limits),
      verdict: verdict(limits, column.better),
      basis: "independent samples",
    };
  }

  function ratio(column, index, reference) {
    const sides = [index, reference].map((i) => [column.value(i), ...column.interval(i)]);
    if (sides.flat().some((bound) => bound <= 0)) return { why: "an interval reaches zero" };
    const [[value, ...limits], [from, ...base]] = sides.map((side) => side.map(Math.log));
    const ends = squareAndAdd(value, limits, from, base);
    const [low, high] = ends.map((limit) => digits.format(Math.exp(limit)));
    return {
      shown: `${digits.format(Math.exp(value - from))}× [${low}, ${high}]`,
      verdict: verdict(ends, column.better),
      basis: "ratio to the reference, same machine",
    };
  }

  function exactRatio(column, index, reference) {
    const times = column.value(index) / column.value(reference);
    const basis = "ratio to the reference, no measurement error";
    return { shown: `${digits.format(times)}×`, verdict: null, basis };
  }

  // A score of fewer tasks compares only with one that lacks the same: a hard task left out
  // raises a mean.
  const sameTasks = (column, index, reference) =>
    column.warnings(index).join() === column.warnings(reference).join();

  // Energy that was estimated and energy that was measured differ by more than the rows do.
  const energyOf = (column, index) =>
    column.warnings(index).find((text) => text.startsWith("energy "));

  // How a row differs from the reference in a column: what is shown, its verdict and what it
  // rests on; or only why there is no verdict; or null, where the row has no value.
  function difference(board, column, index, reference) {
    if (column.value(index) === null || column.key === "group") return null;
    if (column.value(reference) === null) return { why: "the reference has no value" };
    if (column.kind === "identity") return exactRatio(column, index, reference);
    if (column.kind === "task") {
      const pair = pairOf(board, column, index, reference);
      if (pair) return paired(column, pair);
    } else if (column.kind === "performance") {
      const same = board.row(index).machine === board.row(reference).machine;
      if (column.sameMachine && !same) return { why: "different machines" };
      if (energyOf(column, index) !== energyOf(column, reference)) {
        return { why: "energy comes from a different source" };
      }
    } else if (!sameTasks(column, index, reference)) {
      return { why: "the scores cover different tasks" };
    }
    if (!column.interval(index)) return { why: "this value has no interval" };
    if (!column.interval(reference)) return { why: "the reference has no interval" };
    return (column.kind === "performance" ? ratio : unpaired)(column, index, reference);
  }

  // The table

  const VERDICTS = {
    better: ["▲ ", "significantly better"],
    worse: ["▼ ", "significantly worse"],
    beyond: ["", "significantly different"],
    within: ["", "not significantly different"],
    floor: ["", "within the noise floor"],
  };

  const isSignificant = (result) => ["better", "worse", "beyond"].includes(result?.verdict);

  // Sentences that many cells share: each stands once below the table, and cells have its number.
  const footnotes = [];

  function noteNumbers(texts) {
    footnotes.push(...texts.filter((text) => !footnotes.includes(text)));
    const numbers = texts.map((text) => footnotes.indexOf(text) + 1).sort((a, b) => a - b);
    return `note ${numbers.join(", ")}`;
  }

  function shownVerdict(result) {
    if (result.why) return element("p", {}, small(`not compared: ${result.why}`));
    const [sign, words] = VERDICTS[result.verdict] ?? ["", ""];
    return element(
      "p",
      { "data-verdict": result.verdict },
      element("span", {}, result.shown),
      " ",
      element("strong", {}, element("span", { "aria-hidden": "true" }, sign), words),
      small([result.basis, ...(result.conclusion ? [noteNumbers([result.conclusion])] : [])].join(" · ")),
    );
  }

  // How this page shows reasons in full, warnings as numbers of notes, and no subsets.
  const CELL = {
    explain: (word, reason) => [element("span", { class: "slm-missing" }, word), small(reason)],
    warn: (_, warnings) =>
      warnings.length ? [element("sup", { title: warnings.join("; ") }, noteNumbers(warnings))] : [],
    list: () => [],
  };

  // A row of facts, which do not differ by more or less.
  function facts(title, fact) {
    const cells = view.rows.map((index) => element("td", {}, ...fact(view.board.row(index))));
    const key = title.toLowerCase();
    return { key, cells: [element("th", { scope: "row" }, title), ...cells], differences: [] };
  }

  // A row of values, each with its difference to the first.
  function values(column) {
    const [reference, ...others] = view.rows;
    const differences = others.map((index) => difference(view.board, column, index, reference));
    const cells = view.rows.map((index, position) => {
      const compared = differences[position - 1];
      const below = compared ? [shownVerdict(compared)] : [];
      return element("td", {}, ...slm.cellContent(column, index, CELL), ...below);
    });
    const head = element("th", { scope: "row" }, column.title, small(column.unit));
    return { key: column.key, cells: [head, ...cells], differences };
  }

  const compact = new Intl.NumberFormat("en", {
    notation: "compact",
    maximumSignificantDigits: 3,
  });

  function identity(column) {
    return [
      facts("Parameters", (row) => [compact.format(row.model.parameters).replace(/\D$/, " $&")]),
      facts("License", (row) => [row.model.license]),
      facts("Languages", (row) => [row.model.languages.join(", ")]),
      facts("Machine", (row) => [row.machine]),
      ...["effective_bits_per_weight", "size_bytes"].map((key) => values(column(key))),
    ];
  }

  function sections() {
    const { columns } = view.board;
    const rows = (kind) =>
      [...columns.values()].filter((column) => column.kind === kind).map(values);
    return [
      { id: "identity", title: "Identity", rows: identity((key) => columns.get(key)) },
      { id: "overall", title: "Overall", rows: rows("overall") },
      { id: "categories", title: "Categories", rows: rows("category") },
      { id: "tasks", title: "Tasks", rows: rows("task") },
      { id: "performance", title: "Performance", rows: rows("performance") },
    ];
  }

  function head() {
    const columns = view.rows.map((index, position) => {
      const row = view.board.row(index);
      const about = [`${row.variant} · ${row.machine}`];
      if (row.model.reference) about.push("over the size limit, not ranked");
      if (position === 0) about.push("reference");
      return element(
        "th",
        { scope: "col" },
        swatch(position),
        name(row),
        ...about.map((line) => small(line)),
      );
    });
    const corner = element("th", { scope: "col" }, "Quantity");
    return element("thead", {}, element("tr", {}, corner, ...columns));
  }

  function toggle(section) {
    const { closed } = view.state;
    const open = !closed.includes(section.id);
    const next = open ? [...closed, section.id] : closed.filter((id) => id !== section.id);
    return button(`section:${section.id}`, section.title, { "aria-expanded": open }, () =>
      look({ closed: next }),
    );
  }

  function body(section) {
    const only = view.state.only.includes(SIGNIFICANT) && section.id !== "identity";
    const rows = only ? section.rows.filter((row) => row.differences.some(isSignificant)) : section.rows;
    if (!rows.length) return "";
    const title = element(
      "th",
      { scope: "rowgroup", colspan: view.rows.length + 1 },
      toggle(section),
    );
    const shown = view.state.closed.includes(section.id) ? [] : rows;
    return element(
      "tbody",
      { "data-section": section.id },
      element("tr", { class: "slm-section" }, title),
      ...shown.map((row) => element("tr", { "data-quantity": row.key }, ...row.cells)),
    );
  }

  // With many rows some differ by chance, so the reader is told how many to expect.
  function counted(parts) {
    const results = parts.flatMap((section) => section.rows.flatMap((row) => row.differences));
    const tested = results.filter((result) => result?.verdict).length;
    if (!tested) return "";
    const significant = results.filter(isSignificant).length;
    const chance = Math.max(1, Math.round(tested / 20));
    return (
      `${significant} of ${tested} differences are significant at the 5 % level. Without any true ` +
      `difference, about ${chance} of them would be so by chance.`
    );
  }

  function drawTable() {
    footnotes.length = 0;
    const parts = sections();
    part("notes").replaceChildren(...footnotes.map((text) => element("li", {}, text)));
    part("table").replaceChildren(head(), ...parts.map(body).filter(Boolean));
    part("count").textContent = counted(parts);
    part("beyond").checked = view.state.only.includes(SIGNIFICANT);
  }

  // Charts, drawn from the specifications in the page with what is chosen. The table has the same
  // numbers, so a figure names itself and needs no other text.

  // A name for a line of a chart: nothing invisible, and its writing direction kept to itself.
  function plain(text) {
    const visible = text.replace(/\p{C}/gu, "");
    return /^[ -~]*$/.test(visible) ? visible : `\u2068${visible}\u2069`;
  }

  const series = () =>
    view.rows.map((index, position) => {
      const row = view.board.row(index);
      return { index, name: `${position + 1} · ${row.variant} · ${plain(row.model.name)}` };
    });

  function valueText(column, index) {
    const value = column.value(index);
    if (value === null) return column.note(index).word;
    const interval = column.interval(index);
    return `${column.show(value)}${interval ? ` (${interval.map(column.show).join(" to ")})` : ""}`;
  }

  // Every row on every axis: a category that some row has no score of is no axis.
  function radar() {
    const columns = [...view.board.columns.values()].filter(({ kind }) => kind === "category");
    const whole = ({ value }) => view.rows.every((index) => value(index) !== null);
    const axes = columns.filter(whole);
    const left = columns.filter((column) => !whole(column)).map((column) => column.title);
    const without = left.length ? ` Without ${left.join(", ")}: not every row has a score.` : "";
    if (axes.length < AXES) {
      const why = `A radar chart needs ${AXES} categories in which every row has a score.`;
      return { values: [], caption: `${why}${without}` };
    }
    const values = series().flatMap(({ index, name: label }) =>
      axes.map((column, position) => {
        const angle = (2 * Math.PI * position) / axes.length;
        const share = column.value(index) / 100;
        const radius = Math.min(Math.max(share, 0), 1);
        const [x, y] = [radius * Math.sin(angle), radius * Math.cos(angle)];
        return { series: label, axis: column.title, angle, share, x, y, text: valueText(column, index) };
      }),
    );
    const reading = "The center is the chance level or below it, the outer ring a perfect score.";
    return { values, caption: `Normalized score by category. ${reading}${without}` };
  }

  // Bars share one axis, so they show the tasks with a percentage score.
  function bars() {
    const columns = [...view.board.columns.values()].filter(
      ({ kind, unit, value }) =>
        kind === "task" && unit.includes("%") && view.rows.some((index) => value(index) !== null),
    );
    const values = series().flatMap(({ index, name: label }) =>
      columns.map((column) => {
        const value = column.value(index);
        const [low, high] = column.interval(index) ?? [value, value];
        const task = column.better === "less" ? `${column.title}, lower is better` : column.title;
        return { task, series: label, value, low, high, text: valueText(column, index) };
      }),
    );
    const caption = values.length
      ? "Scores of the tasks with a percentage score. Lines are 95 % confidence intervals."
      : "No task with a percentage score was measured for these rows.";
    return { values, caption };
  }

  // Draws beside the page and shows the result, unless the page has moved on meanwhile.
  async function drawChart(figure, { values, caption }, isCurrent) {
    const drawing = figure.querySelector("[role=img]");
    drawing.hidden = !values.length;
    drawing.setAttribute(
      "aria-label",
      `${caption} ${series()
        .map((one) => one.name)
        .join("; ")}. The table has the numbers.`,
    );
    figure.querySelector("figcaption").textContent = caption;
    if (!values.length) return;
    const embed = await slm.vega();
    const spec = JSON.parse(figure.querySelector("template").content.textContent);
    const drawn = element("div", { "aria-hidden": "true" }); // what is around it has its name
    // ast: expressions are interpreted, so a strict content policy needs no exception
    const options = { renderer: "svg", ast: true, actions: false };
    await embed(drawn, { ...spec, data: { values } }, options);
    if (isCurrent()) drawing.replaceChildren(drawn);
  }

  function drawCharts(isCurrent) {
    Object.entries({ radar, bars }).forEach(([figure, chart]) =>
      drawChart(part(figure), chart(), isCurrent).catch((error) => {
        console.error(error);
        part(figure).querySelector("figcaption").textContent = "The chart could not be drawn.";
      }),
    );
  }

  // The chosen rows

  function card(index, position) {
    const row = view.board.row(index);
    const others = chosen().filter((id) => id !== row.id);
    const first = position === 0;
    const label = first ? "Reference" : "Make reference";
    const link = element("a", { href: `${slm.base}${row.page}` }, name(row));
    return element(
      "li",
      {},
      swatch(position),
      element("span", {}, link, small(`${row.variant} · ${row.machine}`)),
      button(
        `reference:${row.id}`,
        label,
        { "aria-pressed": first, "aria-label": `${label}: ${spoken(row)}` },
        () => {
          if (first) return;
          say(`${spoken(row)} is the reference.`);
          choose({ rows: [row.id, ...others] });
        },
      ),
      button(`remove:${row.id}`, "Remove", { "aria-label": `Remove ${spoken(row)}` }, () => {
        const next = others[position] ?? others[position - 1];
        focused = next ? `remove:${next}` : "add";
        say(`${spoken(row)} is removed.`);
        choose({ rows: others });
      }),
    );
  }

  const full = () => view.rows.length === MOST;

  function drawChoice() {
    part("chosen").replaceChildren(...view.rows.map(card));
    part("add").disabled = full();
    part("hint").textContent = full()
      ? "Four rows are the maximum. Remove one to add another."
      : "Search by model, variant or machine. Up to four rows are compared.";
  }

  // What the page says

  const say = (text) => (part("status").textContent = text);

  function notice(lines) {
    part("notice").hidden = !lines.length;
    part("notice").textContent = lines.join(" ");
  }

  // The key of the control that gets the focus when the page is drawn next; otherwise it stays.
  let focused = null;

  function drawing(draw) {
    const key = focused ?? document.activeElement?.dataset.key;
    focused = null;
    draw();
    if (key) page.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  }

  // The list of rows to add: a combobox whose options are found by what is typed.

  const list = { matches: [], active: -1 };
  const texts = new WeakMap(); // board → what is searched of each row

  function searched(board) {
    if (!texts.has(board)) {
      const text = ({ model, variant, family, machine }) =>
        `${model.name} ${model.id} ${variant} ${family} ${machine}`;
      texts.set(board, Array.from({ length: board.count }, (_, index) => text(board.row(index))));
    }
    return texts.get(board);
  }

  function matches(query) {
    const fits = slm.search(query, searched(view.board));
    return [...fits.keys()].filter((index) => fits[index] && !view.rows.includes(index));
  }

  function option(index, position) {
    const row = view.board.row(index);
    const node = element(
      "li",
      { role: "option", id: `slm-option-${position}`, "aria-selected": "false" },
      name(row),
      small(`${row.variant} · ${row.machine}`),
    );
    node.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the focus
    node.addEventListener("click", () => take(position));
    return node;
  }

  function close() {
    list.matches = [];
    activate(-1);
    part("options").hidden = true;
    part("add").setAttribute("aria-expanded", "false");
  }

  function open() {
    if (!view.board || full()) return;
    const query = part("add").value.trim();
    const rows = matches(query);
    list.matches = rows.slice(0, LISTED);
    part("options").replaceChildren(...list.matches.map(option));
    part("options").hidden = !rows.length;
    part("add").setAttribute("aria-expanded", String(Boolean(rows.length)));
    activate(query && rows.length ? 0 : -1);
    if (!rows.length) say(`Nothing under this protocol matches “${query}”.`);
    else if (rows.length > LISTED) say(`The first ${LISTED} are listed; type more to narrow.`);
    else say(`${rows.length} listed.`);
  }

  function activate(position) {
    list.active = position;
    [...part("options").children].forEach((node, at) =>
      node.setAttribute("aria-selected", String(at === position)),
    );
    const active = part("options").children[position];
    if (active) part("add").setAttribute("aria-activedescendant", active.id);
    else part("add").removeAttribute("aria-activedescendant");
    active?.scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    if (!list.matches.length) return open();
    const { length } = list.matches;
    const from = list.active < 0 && by < 0 ? 0 : list.active;
    return activate((from + by + length) % length);
  }

  function take(position) {
    const row = view.board.row(list.matches[position]);
    part("add").value = "";
    close();
    // A fourth row disables the field, so the focus goes to the row.
    focused = view.rows.length + 1 === MOST ? `reference:${row.id}` : "add";
    say(`${spoken(row)} is added.${view.rows.length + 1 === MOST ? " Four is the maximum." : ""}`);
    choose({ rows: [...chosen(), row.id] });
  }

  const KEYS = {
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    Enter: () => list.active >= 0 && take(list.active),
    Escape: () => {
      if (part("options").hidden) part("add").value = "";
      close();
    },
  };

  // Drawing the whole

  function draw(board, state, unknownProtocol) {
    const known = state.rows.map((id) => [id, board.find(id)]);
    const present = known.filter(([, index]) => index >= 0);
    const unknown = known.filter(([, index]) => index < 0).map(([id]) => id);
    const many = present.slice(MOST).map(([id]) => id);
    view = { board, state, rows: present.slice(0, MOST).map(([, index]) => index) };
    const lines = unknownProtocol ? [`There is no protocol ${unknownProtocol} here.`] : [];
    if (unknown.length) {
      lines.push(`Not among the rows of protocol ${board.protocol}: ${unknown.join(", ")}.`);
    }
    if (many.length) lines.push(`Up to four rows are compared; left out: ${many.join(", ")}.`);
    notice(lines);
    drawing(() => {
      drawChoice();
      part("result").hidden = !view.rows.length;
      part("protocol-label").textContent = board.title;
      part("protocol-label").classList.toggle("slm-unranked", !board.ranked);
      if (view.rows.length) drawTable();
    });
  }

  let turn = 0;

  // Draws what the address asks for; of several calls the last counts.
  async function show() {
    const current = (turn += 1);
    const requested = read();
    const unknown = protocols.includes(requested.protocol) ? null : requested.protocol;
    const state = unknown ? { ...requested, protocol: protocols[0] } : requested;
    part("protocol").value = state.protocol;
    view.state = state;
    close();
    try {
      const board = await slm.load(state.protocol);
      if (current !== turn) return;
      draw(board, state, unknown);
      if (!view.rows.length) return;
      await Promise.all([slm.loadDetails(board), slm.loadPairs(board)]);
      if (current !== turn) return;
      draw(board, state, unknown);
      drawCharts(() => current === turn);
    } catch (error) {
      console.error(error);
      if (current === turn) notice([error.message]);
    }
  }

  part("protocol").addEventListener("change", () =>
    choose({ protocol: part("protocol").value }),
  );
  part("beyond").addEventListener("change", () =>
    look({ only: part("beyond").checked ? [SIGNIFICANT] : [] }),
  );
  part("add").dataset.key = "add";
  part("add").addEventListener("input", open);
  part("add").addEventListener("click", open);
  part("add").addEventListener("blur", close);
  part("add").addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.isComposing) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  window.addEventListener("hashchange", () => {
    if (location.hash !== written) say(""); // what was said is of another state
    show();
  });
  document.querySelector(".slm-scriptless").hidden = true;
  page.hidden = false;
  show();
})();
