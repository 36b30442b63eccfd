// Compares up to four rows of one protocol side by side. The address holds what is shown, so that
// a link, a reload and the Back key bring it again.
(() => {
  "use strict";

  const MOST = 4;
  const LISTED = 50; // options that the list offers at once
  const AXES = 3; // fewer enclose no area
  const BEYOND = "beyond-noise";

  const { element } = slm;
  const page = document.querySelector(".slm-comparing");
  if (!page) return; // an empty board has nothing to compare

  const part = (name) => page.querySelector(`[data-part="${name}"]`);
  const protocols = [...part("protocol").options].map((option) => option.value);

  // The table, the chosen rows and the state that are on the screen.
  let view = { board: null, state: null, rows: [] };

  const small = (...children) => element("small", {}, ...children);
  const name = (row) => element("bdi", {}, row.model.name);
  const spoken = (row) => `${row.model.name} ${row.variant}, ${row.machine}`;

  // The number of a row, which its line in the charts has too.
  function swatch(place) {
    const number = String(place + 1);
    const looks = { class: "slm-swatch", "data-series": number, "aria-hidden": "true" };
    return element("span", looks, number);
  }

  // A button that keeps the focus when the page is drawn again: its key finds it.
  function button(key, label, attributes, act) {
    const made = element("button", { type: "button", "data-key": key, ...attributes }, label);
    made.addEventListener("click", act);
    return made;
  }

  // The address

  function read() {
    const given = slm.readHash();
    const list = (key) => [...new Set((given.get(key) ?? "").split(",").filter(Boolean))];
    return {
      protocol: given.get("protocol") ?? protocols[0],
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
    const given = Object.entries(lists).filter(([, list]) => list.length);
    return slm.writeHash(given.map(([key, list]) => [key, list.join(",")]));
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
      basis: `paired, n = ${pair.n.toLocaleString("en")}`,
      said: [pair.statement],
    };
  }

  function unpaired(column, index, reference) {
    const [value, from] = [column.value(index), column.value(reference)];
    const limits = squareAndAdd(value, column.interval(index), from, column.interval(reference));
    return {
      shown: shownDifference(column, value - from, limits),
      verdict: verdict(limits, column.better),
      basis: "unpaired",
    };
  }

  function ratio(column, index, reference) {
    const sides = [index, reference].map((i) => [column.value(i), ...column.interval(i)]);
    if (sides.flat().some((bound) => bound <= 0)) return { why: "an interval reaches zero" };
    const [[value, ...own], [from, ...base]] = sides.map((side) => side.map(Math.log));
    const limits = squareAndAdd(value, own, from, base);
    const [low, high] = limits.map((limit) => digits.format(Math.exp(limit)));
    return {
      shown: `${digits.format(Math.exp(value - from))}× [${low}, ${high}]`,
      verdict: verdict(limits, column.better),
      basis: "same machine",
    };
  }

  function exactRatio(column, index, reference) {
    const times = column.value(index) / column.value(reference);
    return { shown: `${digits.format(times)}×`, verdict: null, basis: "exact" };
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
      if (column.sameMachine && !same) return { why: "other machine" };
      if (energyOf(column, index) !== energyOf(column, reference)) {
        return { why: "energy is from another source" };
      }
    } else if (!sameTasks(column, index, reference)) {
      return { why: "the scores rest on other tasks" };
    }
    if (!column.interval(index)) return { why: "this value has no interval" };
    if (!column.interval(reference)) return { why: "the reference has no interval" };
    return (column.kind === "performance" ? ratio : unpaired)(column, index, reference);
  }

  // The table

  const VERDICTS = {
    better: ["▲ ", "better, beyond noise"],
    worse: ["▼ ", "worse, beyond noise"],
    beyond: ["", "beyond noise"],
    within: ["", "within noise"],
    floor: ["", "within the noise floor"],
  };

  const isBeyond = (found) => ["better", "worse", "beyond"].includes(found?.verdict);

  // Sentences that many cells share: each stands once below the table, and cells have its number.
  const footnotes = [];

  function noted(texts) {
    footnotes.push(...texts.filter((text) => !footnotes.includes(text)));
    const places = texts.map((text) => footnotes.indexOf(text) + 1);
    return places.length ? `note${places.length > 1 ? "s" : ""} ${places.join(", ")}` : "";
  }

  function shownVerdict(found) {
    if (found.why) return element("p", {}, small(`not compared: ${found.why}`));
    const [sign, words] = VERDICTS[found.verdict] ?? ["", ""];
    return element(
      "p",
      { "data-verdict": found.verdict },
      element("span", {}, found.shown),
      " ",
      element("strong", {}, element("span", { "aria-hidden": "true" }, sign), words),
      small([found.basis, noted(found.said ?? [])].filter(Boolean).join(" · ")),
    );
  }

  // What stands behind a value: documents, tasks, or the rows of a group.
  function behind(column, count) {
    const shown = count.toLocaleString("en");
    if (column.kind === "task") return `n = ${shown}`;
    const unit = column.key === "group" ? "row" : "task";
    return `${shown} ${unit}${count === 1 ? "" : "s"}`;
  }

  const UNKNOWN = { word: "not known", reason: "no record gives it" };

  function shownValue(column, index) {
    const value = column.value(index);
    if (value === null) {
      const { word, reason } = column.note(index) ?? UNKNOWN;
      return [element("span", { class: "slm-missing" }, word), small(reason)];
    }
    const [interval, count] = [column.interval(index), column.n(index)];
    const exact = column.kind === "identity" || column.key === "group";
    const limits = interval ? interval.map(column.show).join(" to ") : exact ? "" : "no interval";
    const below = [count === null ? "" : behind(column, count), noted(column.warnings(index))];
    return [
      column.show(value),
      element("span", { class: "slm-limits" }, ` ${limits}`),
      small(below.filter(Boolean).join(" · ")),
    ];
  }

  // A row of facts, which do not differ by more or less.
  function facts(title, fact) {
    const cells = view.rows.map((index) => element("td", {}, ...fact(view.board.row(index))));
    const key = title.toLowerCase();
    return { key, cells: [element("th", { scope: "row" }, title), ...cells], found: [] };
  }

  // A row of values, each with its difference to the first.
  function values(column) {
    const [reference, ...others] = view.rows;
    const found = others.map((index) => difference(view.board, column, index, reference));
    const cells = view.rows.map((index, place) => {
      const compared = found[place - 1];
      const below = compared ? [shownVerdict(compared)] : [];
      return element("td", {}, ...shownValue(column, index), ...below);
    });
    const head = element("th", { scope: "row" }, column.title, small(column.unit));
    return { key: column.key, cells: [head, ...cells], found };
  }

  const compact = new Intl.NumberFormat("en", {
    notation: "compact",
    maximumSignificantDigits: 3,
  });

  function identity(column) {
    return [
      facts("Parameters", (row) => [compact.format(row.model.parameters).replace(/\D$/, " $&")]),
      facts("Licence", (row) => [row.model.license]),
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
    const columns = view.rows.map((index, place) => {
      const row = view.board.row(index);
      const about = [`${row.variant} · ${row.machine}`];
      if (row.model.reference) about.push("over the size limit, never ranked");
      if (place === 0) about.push("reference of the differences");
      return element(
        "th",
        { scope: "col" },
        swatch(place),
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
    const only = view.state.only.includes(BEYOND) && section.id !== "identity";
    const rows = only ? section.rows.filter((row) => row.found.some(isBeyond)) : section.rows;
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
    const found = parts.flatMap((section) => section.rows.flatMap((row) => row.found));
    const tested = found.filter((one) => one?.verdict).length;
    if (!tested) return "";
    const beyond = found.filter(isBeyond).length;
    const chance = Math.max(1, Math.round(tested / 20));
    return (
      `${beyond} of ${tested} differences are beyond noise. If nothing differed, one in twenty ` +
      `would be so by chance: about ${chance} of these.`
    );
  }

  function drawTable() {
    footnotes.length = 0;
    const parts = sections();
    part("notes").replaceChildren(...footnotes.map((text) => element("li", {}, text)));
    part("table").replaceChildren(head(), ...parts.map(body).filter(Boolean));
    part("count").textContent = counted(parts);
    part("beyond").checked = view.state.only.includes(BEYOND);
  }

  // Charts, drawn from the specifications in the page with what is chosen. The table has the same
  // numbers, so a figure names itself and needs no other text.

  // A name for a line of a chart: nothing invisible, and its writing direction kept to itself.
  function plain(text) {
    const visible = text.replace(/\p{C}/gu, "");
    return /^[ -~]*$/.test(visible) ? visible : `\u2068${visible}\u2069`;
  }

  const series = () =>
    view.rows.map((index, place) => {
      const row = view.board.row(index);
      return { index, name: `${place + 1} · ${row.variant} · ${plain(row.model.name)}` };
    });

  function told(column, index) {
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
    const without = left.length ? ` Without ${left.join(", ")}: some row has no score of it.` : "";
    if (axes.length < AXES) {
      const why = `A radar needs ${AXES} categories of which each row has a score.`;
      return { values: [], caption: `${why}${without}` };
    }
    const values = series().flatMap(({ index, name: own }) =>
      axes.map((column, place) => {
        const angle = (2 * Math.PI * place) / axes.length;
        const share = column.value(index) / 100;
        const radius = Math.min(Math.max(share, 0), 1);
        const [x, y] = [radius * Math.sin(angle), radius * Math.cos(angle)];
        return { series: own, axis: column.title, angle, share, x, y, text: told(column, index) };
      }),
    );
    const reading = "The centre is chance or below it, the outer ring a perfect score.";
    return { values, caption: `Share above chance by category. ${reading}${without}` };
  }

  // Bars share one axis, so they are of the tasks that score in per cent.
  function bars() {
    const columns = [...view.board.columns.values()].filter(
      ({ kind, unit, value }) =>
        kind === "task" && unit.includes("%") && view.rows.some((index) => value(index) !== null),
    );
    const values = series().flatMap(({ index, name: own }) =>
      columns.map((column) => {
        const value = column.value(index);
        const [low, high] = column.interval(index) ?? [value, value];
        const task = column.better === "less" ? `${column.title}, less is better` : column.title;
        return { task, series: own, value, low, high, text: told(column, index) };
      }),
    );
    const caption = values.length
      ? "Scores of the tasks that score in per cent. Lines are 95 % intervals."
      : "No task that scores in per cent has a score here.";
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

  function card(index, place) {
    const row = view.board.row(index);
    const others = chosen().filter((id) => id !== row.id);
    const first = place === 0;
    const label = first ? "Reference" : "Make reference";
    const link = element("a", { href: `${slm.base}${row.page}` }, name(row));
    return element(
      "li",
      {},
      swatch(place),
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
        const next = others[place] ?? others[place - 1];
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
      ? "Four are compared, which is the most. Remove one to add another."
      : "Type a part of a model, a variant or a machine. At most four are compared.";
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

  const list = { found: [], active: -1 };
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

  function option(index, place) {
    const row = view.board.row(index);
    const made = element(
      "li",
      { role: "option", id: `slm-option-${place}`, "aria-selected": "false" },
      name(row),
      small(`${row.variant} · ${row.machine}`),
    );
    made.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps the focus
    made.addEventListener("click", () => take(place));
    return made;
  }

  function close() {
    list.found = [];
    activate(-1);
    part("options").hidden = true;
    part("add").setAttribute("aria-expanded", "false");
  }

  function open() {
    if (!view.board || full()) return;
    const query = part("add").value.trim();
    const found = matches(query);
    list.found = found.slice(0, LISTED);
    part("options").replaceChildren(...list.found.map(option));
    part("options").hidden = !found.length;
    part("add").setAttribute("aria-expanded", String(Boolean(found.length)));
    activate(query && found.length ? 0 : -1);
    if (!found.length) say(`Nothing under this protocol matches “${query}”.`);
    else if (found.length > LISTED) say(`The first ${LISTED} are listed; type more to narrow.`);
    else say(`${found.length} listed.`);
  }

  function activate(place) {
    list.active = place;
    [...part("options").children].forEach((made, at) =>
      made.setAttribute("aria-selected", String(at === place)),
    );
    const active = part("options").children[place];
    if (active) part("add").setAttribute("aria-activedescendant", active.id);
    else part("add").removeAttribute("aria-activedescendant");
    active?.scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    if (!list.found.length) return open();
    const { length } = list.found;
    const from = list.active < 0 && by < 0 ? 0 : list.active;
    return activate((from + by + length) % length);
  }

  function take(place) {
    const row = view.board.row(list.found[place]);
    part("add").value = "";
    close();
    // A fourth row disables the field, so the focus goes to the row.
    focused = view.rows.length + 1 === MOST ? `reference:${row.id}` : "add";
    say(`${spoken(row)} is added.${view.rows.length + 1 === MOST ? " Four is the most." : ""}`);
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
    const there = known.filter(([, index]) => index >= 0);
    const unknown = known.filter(([, index]) => index < 0).map(([id]) => id);
    const many = there.slice(MOST).map(([id]) => id);
    view = { board, state, rows: there.slice(0, MOST).map(([, index]) => index) };
    const lines = unknownProtocol ? [`There is no protocol ${unknownProtocol} here.`] : [];
    if (unknown.length) {
      lines.push(`Not among the rows of protocol ${board.protocol}: ${unknown.join(", ")}.`);
    }
    if (many.length) lines.push(`At most four are compared; left out: ${many.join(", ")}.`);
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
    const mine = (turn += 1);
    const asked = read();
    const unknown = protocols.includes(asked.protocol) ? null : asked.protocol;
    const state = unknown ? { ...asked, protocol: protocols[0] } : asked;
    part("protocol").value = state.protocol;
    view.state = state;
    close();
    try {
      const board = await slm.load(state.protocol);
      if (mine !== turn) return;
      draw(board, state, unknown);
      if (!view.rows.length) return;
      await Promise.all([slm.loadDetails(board), slm.loadPairs(board)]);
      if (mine !== turn) return;
      draw(board, state, unknown);
      drawCharts(() => mine === turn);
    } catch (error) {
      console.error(error);
      if (mine === turn) notice([error.message]);
    }
  }

  part("protocol").addEventListener("change", () =>
    choose({ protocol: part("protocol").value }),
  );
  part("beyond").addEventListener("change", () =>
    look({ only: part("beyond").checked ? [BEYOND] : [] }),
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
