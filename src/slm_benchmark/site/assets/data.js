// The rows of the leaderboard for the scripts of its pages: loading, columns, search, numbers.
// The files come from site/rows.py. A page opened from a folder may run files but not read them, so
// each file calls slm.receive with JSON, which a browser reads faster as a text than as a program.
(() => {
  "use strict";

  const base = new URL("../", document.currentScript.src).href;
  const received = new Map(); // "protocol part" → {resolve, reject, promise}

  function receive(protocol, part, content) {
    received.get(`${protocol} ${part}`)?.resolve(JSON.parse(content));
  }

  function request(protocol, part) {
    const key = `${protocol} ${part}`;
    if (!received.has(key)) {
      const waiting = Promise.withResolvers ? Promise.withResolvers() : withResolvers();
      const script = document.createElement("script");
      const suffix = part === "rows" ? "" : `.${part}`;
      script.src = new URL(`assets/rows/${encodeURIComponent(protocol)}${suffix}.js`, base).href;
      script.onerror = () => {
        received.delete(key); // so that another try asks again
        waiting.reject(new Error(`The data of protocol ${protocol} could not be loaded.`));
      };
      received.set(key, waiting);
      document.head.append(script);
    }
    return received.get(key).promise;
  }

  function withResolvers() {
    const waiting = {};
    waiting.promise = new Promise((resolve, reject) => Object.assign(waiting, { resolve, reject }));
    return waiting;
  }

  // ── numbers ──

  const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 20 });
  // A true minus sign, and none before a zero.
  const minus = (text) => text.replace("-", /[1-9]/.test(text) ? "−" : "");

  const shows = {
    one: (value) => minus(value.toFixed(1)),
    three: (value) => {
      if (value === 0) return "0";
      const decimals = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
      const rounded = Number(value.toPrecision(3));
      return minus(decimals ? rounded.toFixed(decimals) : grouped.format(rounded));
    },
    whole: (value) => grouped.format(value),
  };

  // ── columns ──

  function makeColumn(plain, texts) {
    const at = (list, index) => list?.[index] ?? null;
    const sentences = (places) => (places ?? []).map((place) => texts[place]);
    return {
      key: plain.key,
      title: plain.title,
      unit: plain.unit,
      kind: plain.kind,
      better: plain.better,
      sameMachine: Boolean(plain.same_machine),
      show: shows[plain.digits],
      pages: plain.pages,
      fields: plain.fields,
      value: (index) => at(plain.value, index),
      interval: (index) => {
        const low = at(plain.low, index);
        return low === null ? null : [low, plain.high[index]];
      },
      n: (index) => at(plain.n, index),
      note: (index) => {
        const [word, reason] = sentences(plain.notes?.[index] ?? plain.notes?.all);
        return word ? { word, reason } : null;
      },
      warnings: (index) => sentences(plain.warnings?.[index]),
      parts: (index) => texts[plain.parts?.[index]]?.split(", ") ?? [],
    };
  }

  class Board {
    constructor(protocol, plain) {
      this.protocol = protocol;
      this.title = plain.title;
      this.ranked = plain.ranked;
      this.categories = plain.categories;
      this.machines = plain.machines;
      this.hardware = plain.hardware;
      this.identity = plain.identity;
      this.models = plain.models;
      this.tasks = [];
      this.count = plain.rows.model.length;
      this.columns = new Map();
      this.pairs = null;
      this.plain = plain;
      this.rows = new Array(this.count);
      this.addColumns(plain);
    }

    addColumns({ columns, texts }) {
      columns.forEach((plain) => this.columns.set(plain.key, makeColumn(plain, texts)));
    }

    row(index) {
      return (this.rows[index] ??= this.makeRow(index));
    }

    makeRow(index) {
      const { rows, models, variants, hardware, machines } = this.plain;
      const model = models[rows.model[index]];
      const variant = variants[rows.variant[index]];
      const machine = machines[rows.machine[index]];
      const place = hardware[rows.hardware[index]];
      return {
        index,
        id: `${model.id}/${variant}/${place.id}`,
        model,
        variant,
        family: variant.split("-")[0],
        hardware: place.id,
        hardwareTitle: place.title,
        machine,
        page: `models/${model.id}.html`,
      };
    }

    find(id) {
      this.places ??= new Map(Array.from({ length: this.count }, (_, i) => [this.row(i).id, i]));
      return this.places.get(id) ?? -1;
    }

    pair(index, task) {
      const found = this.pairs?.pairs[this.row(index).id]?.[task];
      if (!found) return null;
      const [difference, low, high, n, floor, within, statement] = found;
      return {
        difference,
        interval: [low, high],
        n,
        floor,
        within_floor: within,
        statement: this.pairs.texts[statement],
      };
    }
  }

  const boards = new Map();

  async function load(protocol) {
    if (!boards.has(protocol)) {
      boards.set(protocol, new Board(protocol, await request(protocol, "rows")));
    }
    return boards.get(protocol);
  }

  async function loadDetails(board) {
    if (board.tasks.length) return;
    const plain = await request(board.protocol, "details");
    board.addColumns(plain);
    board.tasks = plain.tasks;
  }

  async function loadPairs(board) {
    board.pairs ??= await request(board.protocol, "pairs");
  }

  // ── search ──

  const squashed = new Map(); // the same names are searched at every letter

  function squash(text) {
    if (!squashed.has(text)) {
      const plain = text.normalize("NFKD").toLowerCase();
      squashed.set(text, plain.replace(/[^\p{L}\p{N}]+/gu, ""));
    }
    return squashed.get(text);
  }

  // Fewest edits between a term and any part of a text (Sellers, Journal of Algorithms 1, 1980).
  function edits(term, text) {
    const distances = new Uint16Array(text.length + 1);
    for (let i = 1; i <= term.length; i += 1) {
      let diagonal = distances[0];
      distances[0] = i;
      for (let j = 1; j <= text.length; j += 1) {
        const same = diagonal + (term[i - 1] === text[j - 1] ? 0 : 1);
        diagonal = distances[j];
        distances[j] = Math.min(same, diagonal + 1, distances[j - 1] + 1);
      }
    }
    return Math.min(...distances);
  }

  // A short term has to be right: with an edit it would be a part of almost every name.
  const allowed = (term) => (term.length < 4 ? 0 : term.length < 8 ? 1 : 2);
  const terms = (query) => query.split(/\s+/).map(squash).filter(Boolean);
  const contains = (text) => (term) => text.includes(term);
  const resembles = (text) => (term) => text.includes(term) || edits(term, text) <= allowed(term);

  // Whether every word of the query is in the text, but for an edit or two.
  function match(query, text) {
    return terms(query).every(resembles(squash(text)));
  }

  // Which texts have all words of the query; where none has them to the letter, those that nearly do.
  function search(query, texts) {
    const wanted = terms(query);
    const exact = texts.map((text) => wanted.every(contains(squash(text))));
    return exact.some(Boolean) ? exact : texts.map((text) => wanted.every(resembles(squash(text))));
  }

  // What the address says after its #, as a Map, and back; values stay readable.
  function readHash() {
    return new Map(new URLSearchParams(location.hash.slice(1)));
  }

  function writeHash(entries) {
    const text = new URLSearchParams(entries).toString();
    return text.replaceAll("%2F", "/").replaceAll("%2C", ",").replaceAll("%3A", ":");
  }

  window.slm = Object.assign(window.slm ?? {}, {
    base,
    receive,
    load,
    loadDetails,
    loadPairs,
    match,
    search,
    readHash,
    writeHash,
    shows,
  });
})();
