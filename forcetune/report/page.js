// Draws the figures from the columns beside them, and lists the trials: filters, sorts, and finds one in the other.
(function () {
  "use strict";

  const CONFIG = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };
  const SLICE = 200; // rows that are listed at first
  const PAPER = 690; // pixels that a page of A4 or Letter has between its margins
  const AXIS = 64; // pixels that the labels and the title below a figure take
  const shorter = (height) => Math.max(Math.min(height, 360), 0.75 * height); // the height of a figure there
  const UNITS = { "%": 0.01, k: 1e3, K: 1e3, M: 1e6, G: 1e9 };
  const thousands = new Intl.NumberFormat("en-US");
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const make = (tag, text = "", attributes = {}) => {
    const found = document.createElement(tag);
    found.textContent = text;
    Object.entries(attributes).forEach(([name, value]) => found.setAttribute(name, value));
    return found;
  };

  // ---- columns ----

  const sources = Object.fromEntries(
    Object.entries(page.sources).map(([id, source]) => [id, { ...source, columns: unpacked(source) }])
  );

  function unpacked(source) {
    const count = source.rows;
    return Object.fromEntries(source.columns.map((column) => [column.name, { ...column, values: values(column, count) }]));
  }

  function values(column, count) {
    if ("constant" in column) return new Array(count).fill(column.constant);
    return column.levels ? column.codes.map((code) => column.levels[code]) : column.values;
  }

  function told(column, value) {
    if (value === null || value === undefined) return "";
    if (column.kind === "share") return share(value);
    if (column.kind === "chance") return `${Math.round(100 * value)}%`;
    if (column.kind === "whole") return thousands.format(value);
    if (column.kind === "points") return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
    if (column.kind === "number") return String(Number(value.toPrecision(4)));
    if (column.kind === "flag") return value ? "yes" : "no";
    return String(value);
  }

  function share(value) {
    const near = Math.min(Math.abs(value), Math.abs(1 - value)); // as many digits as tell it from 0 and 1
    const digits = near > 0 && near < 0.001 ? Math.min(6, Math.ceil(-Math.log10(100 * near)) + 1) : 2;
    return `${(100 * value).toFixed(digits)}%`;
  }

  // what a cell or a hover says of a column: its value, with half its interval where it has one
  function said(source, name, row) {
    const column = source.columns[name];
    const text = told(column, column.values[row]);
    if (!column.interval || source.columns.low.values[row] === null || text === "") return text;
    return `${text} ± ${told(column, (source.columns.high.values[row] - source.columns.low.values[row]) / 2)}`;
  }

  // ---- figures ----

  const colour = (name) => getComputedStyle(root).getPropertyValue(name.slice(4, -1)).trim();

  // a copy with the colours that this moment's theme has for their names
  function resolved(spec) {
    if (typeof spec === "string") return spec.startsWith("var(--") ? colour(spec) : spec;
    if (Array.isArray(spec)) return spec.map(resolved);
    if (spec && typeof spec === "object") {
      return Object.fromEntries(Object.entries(spec).map(([key, value]) => [key, key === "meta" ? value : resolved(value)]));
    }
    return spec;
  }

  function filled(trace) {
    const found = resolved(trace);
    if (!trace.meta) return found;
    const source = sources[trace.meta.source];
    if (trace.meta.z) return { ...found, ...grid(source, trace.meta) };
    const rows = trace.meta.gap ? withGaps(source, trace.meta) : trace.meta.rows;
    const at = (name) => rows.map((row) => (row === null ? null : source.columns[name].values[row]));
    found.x = at(trace.meta.x);
    found.y = at(trace.meta.y);
    if (trace.meta.low) addInterval(found, at(trace.meta.low), at(trace.meta.high));
    if (trace.meta.hover) {
      found.hovertext = rows.map((row) => (row === null ? "" : hover(source, row)));
      found.hoverinfo = "text";
    }
    return found;
  }

  function withGaps(source, meta) {
    const owner = source.columns[meta.gap].values;
    return meta.rows.flatMap((row, i) => (i && owner[row] !== owner[meta.rows[i - 1]] ? [null, row] : [row]));
  }

  function addInterval(trace, low, high) {
    const [bars, middle] = trace.error_x ? [trace.error_x, trace.x] : [trace.error_y, trace.y];
    bars.array = high.map((value, i) => (value === null ? null : value - middle[i]));
    bars.arrayminus = low.map((value, i) => (value === null ? null : middle[i] - value));
  }

  function grid(source, meta) {
    const across = source.columns[meta.x].values;
    const down = source.columns[meta.y].values;
    const x = [...new Set(across)];
    const y = [...new Set(down)];
    const z = y.map(() => x.map(() => null));
    const hovertext = y.map(() => x.map(() => ""));
    meta.rows.forEach((row) => {
      const [i, j] = [y.indexOf(down[row]), x.indexOf(across[row])];
      const value = source.columns[meta.z].values[row];
      z[i][j] = value > 0 ? Math.log10(value) : null;
      hovertext[i][j] = hover(source, row);
    });
    return { x, y, z, hovertext, hoverinfo: "text", hoverongaps: false };
  }

  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // Plotly reads tags

  function hover(source, row) {
    const lines = (source.hover || source.shown)
      .map((name) => [source.columns[name].label, said(source, name, row)])
      .filter(([, text]) => text !== "");
    const [first, ...rest] = lines;
    return [`<b>${plain(first[1])}</b>`, ...rest.map(([label, text]) => `${plain(label)}: ${plain(text)}`)].join("<br>");
  }

  function draw(figure, width) {
    const plot = document.getElementById(`plot-${figure.id}`);
    const layout = { ...resolved(figure.layout), uirevision: "kept", autosize: true };
    if (width) Object.assign(layout, { width, height: shorter(layout.height), autosize: false });
    layout.legend.y = -AXIS / (layout.height - 2 * AXIS);
    const data = figure.data.map(filled);
    if (list && figure.id === "main") list.fade(data);
    window.Plotly.react(plot, data, layout, CONFIG);
    // inside an image nothing is reached by the keyboard; what its buttons do, the list and the tables tell otherwise
    plot.querySelectorAll(".modebar-btn").forEach((button) => (button.tabIndex = -1));
  }

  const redraw = (width) => page.figures.forEach((figure) => draw(figure, width));

  // ---- tables of figures, made when they are opened ----

  function fillDetails(details) {
    const source = sources[details.dataset.source];
    const rows = source.across ? readAcross(source) : readDown(source);
    const table = tableOf(rows);
    table.createCaption().textContent = source.title;
    details.append(scrolling(table, source.title));
  }

  function readDown(source) {
    const columns = source.shown.map((name) => source.columns[name]);
    return {
      header: columns.map((column) => [column.label, isWords(column)]),
      body: Array.from({ length: source.rows }, (_, row) => source.shown.map((name) => said(source, name, row))),
    };
  }

  function readAcross(source) {
    const [owner, across, value] = source.across;
    const lead = source.shown.filter((name) => name !== across && name !== value);
    const steps = [...new Set(source.columns[across].values)].sort((a, b) => a - b);
    const lines = new Map();
    source.columns[owner].values.forEach((key, row) => {
      if (!lines.has(key)) lines.set(key, [...lead.map((name) => said(source, name, row)), ...steps.map(() => "")]);
      lines.get(key)[lead.length + steps.indexOf(source.columns[across].values[row])] = said(source, value, row);
    });
    const heads = lead.map((name) => [source.columns[name].label, isWords(source.columns[name])]);
    const label = source.columns[across].label;
    return { header: [...heads, ...steps.map((step) => [`${label} ${step}`, false])], body: [...lines.values()] };
  }

  const isWords = (column) => column.kind === "words" || column.kind === "flag";

  function tableOf({ header, body }) {
    const table = make("table");
    const head = table.createTHead().insertRow();
    header.forEach(([label, words]) => head.append(make("th", label, { scope: "col", ...(words && { class: "words" }) })));
    const rows = document.createDocumentFragment();
    body.forEach((cells) => {
      const line = make("tr");
      cells.forEach((text, i) => line.append(make("td", text, header[i][1] ? { class: "words" } : {})));
      rows.append(line);
    });
    table.createTBody().append(rows);
    return table;
  }

  function scrolling(table, label) {
    const box = make("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": label });
    box.append(table);
    return box;
  }

  // ---- the list of trials ----

  // One word or condition of the filter: a function of a row, or a text that says why it is none.
  function test(source, token) {
    const [, name, sign, wanted] = token.match(/^([A-Za-z_][\w.]*)(<=|>=|!=|==|=|<|>)(.*)$/) || [];
    if (!name) return (row) => source.words(row).includes(token.toLowerCase());
    const column = find(source, name);
    if (!column) return `There is no column “${name}”; columns: ${Object.keys(source.columns).join(", ")}.`;
    if (wanted === "") return () => true; // still being written
    const bound = number(wanted);
    if (bound !== null && !isWords(column)) return (row) => compared(column.values[row], sign, bound);
    if (!/^(=|==|!=)$/.test(sign)) {
      return `“${token}”: ${name} has words as values, or “${wanted}” is not a number; use ${name}= or ${name}!=.`;
    }
    const words = wanted.toLowerCase().split(",");
    return (row) => words.includes(String(column.values[row] ?? "").toLowerCase()) === (sign !== "!=");
  }

  function find(source, name) {
    const same = (text) => text.toLowerCase().replace(/ /g, "_") === name.toLowerCase();
    return Object.values(source.columns).find((column) => same(column.name) || same(column.label));
  }

  function number(text) {
    const unit = UNITS[text.slice(-1)];
    const found = Number(unit ? text.slice(0, -1) : text);
    return text.trim() === "" || Number.isNaN(found) ? null : found * (unit || 1);
  }

  function compared(value, sign, bound) {
    if (value === null) return false;
    const equal = Math.abs(value - bound) <= 1e-6 * Math.abs(bound); // numbers here have six digits
    if (sign === "=" || sign === "==") return equal;
    if (sign === "!=") return !equal;
    if (sign === "<=") return value < bound || equal;
    if (sign === ">=") return value > bound || equal;
    return sign === "<" ? value < bound && !equal : value > bound && !equal;
  }

  const tokens = (text) =>
    (text.replace(/\s*(<=|>=|!=|==|=|<|>)\s*/g, "$1").match(/"[^"]*"|[^\s]+/g) || []).map((token) => token.replace(/^"|"$/g, ""));

  function makeList() {
    const source = sources.trials;
    const by = (id) => document.getElementById(id);
    const [text, method, front, every, status, more] = ["words", "method", "only-front", "all-columns", "count", "more"].map(by);
    const table = by("trials-table");
    const state = { rows: [], matching: null, limit: SLICE, sort: null, down: false, chosen: null, error: "" };
    const all = Array.from({ length: source.rows }, (_, row) => row);
    const onFront = source.columns.on_front.values;
    const haystack = new Map();
    const searched = Object.values(source.columns).filter((column) => column.kind === "words");
    source.words = (row) => {
      if (!haystack.has(row)) haystack.set(row, searched.map((column) => column.values[row] ?? "").join("\n").toLowerCase());
      return haystack.get(row);
    };

    function filter() {
      const tests = tokens(text.value).map((token) => test(source, token));
      state.error = tests.find((found) => typeof found === "string") || "";
      text.setAttribute("aria-invalid", String(state.error !== ""));
      if (method.value) tests.push((row) => source.columns.label.values[row] === method.value);
      if (front.checked) tests.push((row) => onFront[row]);
      const usable = tests.filter((found) => typeof found !== "string");
      state.rows = all.filter((row) => usable.every((holds) => holds(row)));
      state.matching = usable.length ? new Set(state.rows) : null;
      state.limit = SLICE;
      order();
      show();
      fadeDrawn();
    }

    function order() {
      if (!state.sort) return;
      const column = source.columns[state.sort].values;
      const sign = state.down ? -1 : 1;
      const way = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      state.rows.sort((a, b) => {
        if (column[a] === null || column[b] === null) return (column[a] === null) - (column[b] === null); // last
        return sign * way(column[a], column[b]);
      });
    }

    function show() {
      const names = every.checked ? Object.keys(source.columns).filter((name) => name !== "on_front") : source.shown;
      table.tHead.replaceChildren(headRow(names));
      const body = document.createDocumentFragment();
      state.rows.slice(0, state.limit).forEach((row) => body.append(bodyRow(names, row)));
      table.tBodies[0].replaceChildren(body);
      say();
    }

    function say() {
      const [count, listed] = [state.rows.length, Math.min(state.limit, state.rows.length)];
      const points = state.rows.filter((row) => onFront[row]).length;
      const some = listed < count ? `; the first ${listed} are listed` : "";
      status.textContent =
        state.error || `${thousands.format(count)} of ${thousands.format(all.length)} trials, ${points} on the front${some}.`;
      more.hidden = listed === count;
      more.textContent = `List all ${thousands.format(count)}`;
    }

    function headRow(names) {
      const line = make("tr");
      names.forEach((name) => {
        const column = source.columns[name];
        const sorted = state.sort === name ? (state.down ? "descending" : "ascending") : "none";
        const head = make("th", "", { scope: "col", "aria-sort": sorted, ...(isWords(column) && { class: "words" }) });
        const button = make("button", column.label, { type: "button", "data-sort": name });
        head.append(button);
        line.append(head);
      });
      return line;
    }

    function bodyRow(names, row) {
      const line = make("tr", "", { "data-row": row });
      names.forEach((name, place) => {
        const column = source.columns[name];
        const text_ = said(source, name, row);
        const cell = place === 0 ? make("th", "", { scope: "row", class: "words" }) : make("td", text_);
        if (place === 0) cell.append(trialButton(text_, row));
        else if (isWords(column)) cell.className = text_.length > 40 ? "words long" : "words";
        if (text_.length > 40) cell.title = text_;
        line.append(cell);
      });
      if (row === state.chosen) mark(line);
      return line;
    }

    function trialButton(name, row) {
      const button = make("button", name, { type: "button", title: "Show this trial in the figure" });
      if (onFront[row]) {
        button.append(make("span", " ★", { "aria-hidden": "true" }), make("span", " on the front", { class: "unseen" }));
      }
      return button;
    }

    function mark(line) {
      line.classList.add("chosen");
      line.setAttribute("aria-current", "true");
    }

    function choose(row) {
      table.querySelectorAll("tr.chosen").forEach((line) => {
        line.classList.remove("chosen");
        line.removeAttribute("aria-current");
      });
      state.chosen = row;
      const line = table.querySelector(`tr[data-row="${row}"]`);
      if (line) mark(line);
      return line;
    }

    // what was clicked in the figure: its row, though the filter hides it or the slice ends before it
    function reveal(row) {
      if (!state.rows.includes(row)) {
        [text.value, method.value, front.checked] = ["", "", false];
        filter();
      }
      const place = state.rows.indexOf(row);
      if (place >= state.limit) {
        state.limit = place + SLICE;
        show();
      }
      const line = choose(row);
      line.scrollIntoView({ block: "center" });
      line.querySelector("button").focus({ preventScroll: true });
    }

    function fade(data) {
      data.forEach((trace) => {
        if (!trace.meta) return;
        if (trace.meta.points) trace.selectedpoints = selected(trace.meta.rows);
        if (trace.meta.intervals && state.matching) hideIntervals(trace);
      });
    }

    const selected = (rows) => (state.matching ? rows.flatMap((row, i) => (state.matching.has(row) ? [i] : [])) : null);

    function hideIntervals(trace) {
      trace.y = trace.y.map((value, i) => (state.matching.has(trace.meta.rows[i]) ? value : null));
    }

    function fadeDrawn() {
      for (const id of ["main", "objectives"]) {
        const plot = by(`plot-${id}`);
        if (!plot || !plot.data) continue;
        const places = plot.data.flatMap((trace, i) => (trace.meta && trace.meta.points ? [i] : []));
        const faded = places.map((i) => selected(plot.data[i].meta.rows));
        window.Plotly.restyle(plot, { selectedpoints: faded }, places);
        fadeIntervals(plot, id);
      }
    }

    function fadeIntervals(plot, id) {
      const place = plot.data.findIndex((trace) => trace.meta && trace.meta.intervals);
      if (place < 0) return;
      const figure = page.figures.find((each) => each.id === id);
      const fresh = filled(figure.data[place]);
      if (state.matching) hideIntervals(fresh);
      window.Plotly.restyle(plot, { y: [fresh.y] }, [place]);
    }

    function point(row) {
      const plot = by("plot-main");
      if (!plot || !plot.data) return;
      plot.data.forEach((trace, curveNumber) => {
        const pointNumber = trace.meta && trace.meta.points ? trace.meta.rows.indexOf(row) : -1;
        if (pointNumber >= 0) window.Plotly.Fx.hover(plot, [{ curveNumber, pointNumber }]);
      });
    }

    function listen(id) {
      const plot = by(`plot-${id}`);
      plot.on("plotly_click", ({ points }) => {
        const { meta } = points[0].data;
        if (meta && meta.points) reveal(meta.rows[points[0].pointNumber]);
      });
    }

    let waiting = 0;
    text.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 150);
    });
    [method, front].forEach((field) => field.addEventListener("change", filter));
    every.addEventListener("change", show);
    by("filter").addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => {
      state.limit = Infinity;
      show();
    });
    table.addEventListener("click", (event) => {
      const name = event.target.dataset.sort;
      if (name) {
        [state.sort, state.down] = [name, state.sort === name && !state.down];
        order();
        show();
        table.querySelector(`[data-sort="${name}"]`).focus();
        return;
      }
      const line = event.target.closest("tbody tr");
      if (line) {
        choose(Number(line.dataset.row));
        point(Number(line.dataset.row));
      }
    });
    filter();
    return { fade, listen };
  }

  // ---- all of it ----

  root.classList.add("js");
  let list = null;
  if (sources.trials) list = makeList();
  document.querySelectorAll("details.numbers").forEach((details) => {
    details.addEventListener("toggle", () => details.open && !details.querySelector("table") && fillDetails(details));
  });

  // one after the other, so that the first can be read while the others are drawn
  function drawFrom(place) {
    if (place === page.figures.length) {
      root.dataset.drawn = String(place);
      performance.mark("drawn");
      return;
    }
    const { id } = page.figures[place];
    draw(page.figures[place]);
    if (list && (id === "main" || id === "objectives")) list.listen(id);
    setTimeout(() => drawFrom(place + 1), 0);
  }
  drawFrom(0);

  let onPaper = false;
  function paper(on) {
    if (on === onPaper) return;
    onPaper = on;
    if (on) root.dataset.theme = "light";
    else delete root.dataset.theme;
    document.querySelectorAll("details[open]").forEach((details) => on && details.removeAttribute("open"));
    redraw(on ? PAPER : undefined);
  }
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
  window.matchMedia("print").addEventListener("change", (event) => paper(event.matches));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => !onPaper && redraw());
})();
