// Draws the figures from the columns beside them, and lists the trials: filters and sorts the list, and finds a point
// of a figure in the list and a row of the list in the figure. notebook.py has the same functions for a notebook.
(function () {
  "use strict";

  const CONFIG = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  };
  const FIRST_ROWS = 200; // rows that are listed at first
  const PAPER_PIXELS = 690; // the width between the margins of a page of A4 or Letter
  const AXIS_PIXELS = 64; // the height of the labels and the title below a figure
  const shortenHeight = (height) => Math.max(Math.min(height, 360), 0.75 * height); // of a figure on paper
  const UNITS = { "%": 0.01, k: 1e3, K: 1e3, M: 1e6, G: 1e9 };
  const thousands = new Intl.NumberFormat("en-US");
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const makeElement = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    return element;
  };

  // ---- columns ----

  const sources = Object.fromEntries(
    Object.entries(page.sources).map(([id, source]) => [id, { ...source, columns: unpackColumns(source) }])
  );

  function unpackColumns(source) {
    const count = source.rows;
    const columns = source.columns.map((column) => ({ ...column, values: decodeValues(column, count) }));
    return Object.fromEntries(columns.map((column) => [column.name, column]));
  }

  function decodeValues(column, count) {
    if ("constant" in column) return new Array(count).fill(column.constant);
    return column.levels ? column.codes.map((code) => column.levels[code]) : column.values;
  }

  function formatValue(column, value) {
    if (value === null || value === undefined) return "";
    if (column.kind === "share") return formatShare(value);
    if (column.kind === "chance") return `${Math.round(100 * value)}%`;
    if (column.kind === "whole") return thousands.format(value);
    if (column.kind === "points") return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
    if (column.kind === "number") return String(Number(value.toPrecision(4)));
    if (column.kind === "flag") return value ? "yes" : "no";
    return String(value);
  }

  function formatShare(value) {
    const near = Math.min(Math.abs(value), Math.abs(1 - value)); // as many digits as distinguish it from 0 and 1
    const digits = near > 0 && near < 0.001 ? Math.min(6, Math.ceil(-Math.log10(100 * near)) + 1) : 2;
    return `${(100 * value).toFixed(digits)}%`;
  }

  // Returns the text of a cell or of a hover: the value, with half of its interval where it has one.
  function formatCell(source, name, row) {
    const column = source.columns[name];
    const text = formatValue(column, column.values[row]);
    if (!column.interval || source.columns.low.values[row] === null || text === "") return text;
    return `${text} ± ${formatValue(column, (source.columns.high.values[row] - source.columns.low.values[row]) / 2)}`;
  }

  // ---- figures ----

  const findColour = (name) => getComputedStyle(root).getPropertyValue(name.slice(4, -1)).trim();

  // Returns a copy with the colours of the present theme in place of their names.
  function resolveColours(spec) {
    if (typeof spec === "string") return spec.startsWith("var(--") ? findColour(spec) : spec;
    if (Array.isArray(spec)) return spec.map(resolveColours);
    if (spec && typeof spec === "object") {
      const entries = Object.entries(spec);
      return Object.fromEntries(entries.map(([key, value]) => [key, key === "meta" ? value : resolveColours(value)]));
    }
    return spec;
  }

  function fillTrace(trace) {
    const copy = resolveColours(trace);
    if (!trace.meta) return copy;
    const source = sources[trace.meta.source];
    if (trace.meta.z) return { ...copy, ...makeGrid(source, trace.meta) };
    const rows = trace.meta.gap ? insertGaps(source, trace.meta) : trace.meta.rows;
    const at = (name) => rows.map((row) => (row === null ? null : source.columns[name].values[row]));
    copy.x = at(trace.meta.x);
    copy.y = at(trace.meta.y);
    if (trace.meta.low) fillIntervals(copy, at(trace.meta.low), at(trace.meta.high));
    if (trace.meta.hover) {
      copy.hovertext = rows.map((row) => (row === null ? "" : describePoint(source, row)));
      copy.hoverinfo = "text";
    }
    return copy;
  }

  function insertGaps(source, meta) {
    const owner = source.columns[meta.gap].values;
    return meta.rows.flatMap((row, i) => (i && owner[row] !== owner[meta.rows[i - 1]] ? [null, row] : [row]));
  }

  function fillIntervals(trace, low, high) {
    const [bars, middle] = trace.error_x ? [trace.error_x, trace.x] : [trace.error_y, trace.y];
    bars.array = high.map((value, i) => (value === null ? null : value - middle[i]));
    bars.arrayminus = low.map((value, i) => (value === null ? null : middle[i] - value));
  }

  function makeGrid(source, meta) {
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
      hovertext[i][j] = describePoint(source, row);
    });
    return { x, y, z, hovertext, hoverinfo: "text", hoverongaps: false };
  }

  // Plotly reads tags in text
  const escapeMarkup = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function describePoint(source, row) {
    const lines = (source.hover || source.shown)
      .map((name) => [source.columns[name].label, formatCell(source, name, row)].map(escapeMarkup))
      .filter(([, text]) => text !== "");
    const [first, ...others] = lines;
    return [`<b>${first[1]}</b>`, ...others.map(([label, text]) => `${label}: ${text}`)].join("<br>");
  }

  function draw(figure, width) {
    const plot = document.getElementById(`plot-${figure.id}`);
    const layout = { ...resolveColours(figure.layout), uirevision: "kept", autosize: true };
    if (width) Object.assign(layout, { width, height: shortenHeight(layout.height), autosize: false });
    layout.legend.y = -AXIS_PIXELS / (layout.height - 2 * AXIS_PIXELS);
    const data = figure.data.map(fillTrace);
    if (list && figure.id === "main") list.fade(data);
    window.Plotly.react(plot, data, layout, CONFIG);
    // The figure counts as an image, so the keyboard does not reach its buttons; the list and the tables replace them.
    plot.querySelectorAll(".modebar-btn").forEach((button) => (button.tabIndex = -1));
  }

  const redraw = (width) => page.figures.forEach((figure) => draw(figure, width));

  // ---- tables of figures, made when they are opened ----

  function fillDetails(details) {
    const source = sources[details.dataset.source];
    const rows = source.across ? readAcross(source) : readDown(source);
    const table = makeTable(rows);
    table.createCaption().textContent = source.title;
    details.append(makeScrollBox(table, source.title));
  }

  function readDown(source) {
    const columns = source.shown.map((name) => source.columns[name]);
    return {
      header: columns.map((column) => [column.label, isWords(column)]),
      body: Array.from({ length: source.rows }, (_, row) => source.shown.map((name) => formatCell(source, name, row))),
    };
  }

  function readAcross(source) {
    const [owner, across, value] = source.across;
    const lead = source.shown.filter((name) => name !== across && name !== value);
    const steps = [...new Set(source.columns[across].values)].sort((a, b) => a - b);
    const lines = new Map();
    source.columns[owner].values.forEach((key, row) => {
      const cells = lead.map((name) => formatCell(source, name, row));
      if (!lines.has(key)) lines.set(key, [...cells, ...steps.map(() => "")]);
      lines.get(key)[lead.length + steps.indexOf(source.columns[across].values[row])] = formatCell(source, value, row);
    });
    const heads = lead.map((name) => [source.columns[name].label, isWords(source.columns[name])]);
    const label = source.columns[across].label;
    return { header: [...heads, ...steps.map((step) => [`${label} ${step}`, false])], body: [...lines.values()] };
  }

  const isWords = (column) => column.kind === "words" || column.kind === "flag";

  function makeTable({ header, body }) {
    const table = makeElement("table");
    const head = table.createTHead().insertRow();
    header.forEach(([label, words]) => {
      head.append(makeElement("th", label, { scope: "col", ...(words && { class: "words" }) }));
    });
    const rows = document.createDocumentFragment();
    body.forEach((cells) => {
      const line = makeElement("tr");
      cells.forEach((text, i) => line.append(makeElement("td", text, header[i][1] ? { class: "words" } : {})));
      rows.append(line);
    });
    table.createTBody().append(rows);
    return table;
  }

  function makeScrollBox(table, label) {
    const box = makeElement("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": label });
    box.append(table);
    return box;
  }

  // ---- the list of trials ----

  // Returns a word or a condition of the filter as a function of a row, or a text that says why it cannot be used.
  function parseCondition(source, token) {
    const [, name, sign, wanted] = token.match(/^([A-Za-z_][\w.]*)(<=|>=|!=|==|=|<|>)(.*)$/) || [];
    if (!name) return (row) => source.words(row).includes(token.toLowerCase());
    const column = findColumn(source, name);
    if (!column) return `There is no column “${name}”; columns: ${Object.keys(source.columns).join(", ")}.`;
    if (wanted === "") return () => true; // still being written
    const bound = parseNumber(wanted);
    if (bound !== null && !isWords(column)) return (row) => compareNumbers(column.values[row], sign, bound);
    if (!/^(=|==|!=)$/.test(sign)) {
      return `“${token}”: ${name} has words as values, or “${wanted}” is not a number; use ${name}= or ${name}!=.`;
    }
    const words = wanted.toLowerCase().split(",");
    return (row) => words.includes(String(column.values[row] ?? "").toLowerCase()) === (sign !== "!=");
  }

  function findColumn(source, name) {
    const same = (text) => text.toLowerCase().replace(/ /g, "_") === name.toLowerCase();
    return Object.values(source.columns).find((column) => same(column.name) || same(column.label));
  }

  function parseNumber(text) {
    const unit = UNITS[text.slice(-1)];
    const parsed = Number(unit ? text.slice(0, -1) : text);
    return text.trim() === "" || Number.isNaN(parsed) ? null : parsed * (unit || 1);
  }

  function compareNumbers(value, sign, bound) {
    if (value === null) return false;
    const equal = Math.abs(value - bound) <= 1e-6 * Math.abs(bound); // numbers here have six digits
    if (sign === "=" || sign === "==") return equal;
    if (sign === "!=") return !equal;
    if (sign === "<=") return value < bound || equal;
    if (sign === ">=") return value > bound || equal;
    return sign === "<" ? value < bound && !equal : value > bound && !equal;
  }

  const splitWords = (text) =>
    (text.replace(/\s*(<=|>=|!=|==|=|<|>)\s*/g, "$1").match(/"[^"]*"|[^\s]+/g) || []).map((token) => token.replace(/^"|"$/g, ""));

  function makeList() {
    const source = sources.trials;
    const findById = (id) => document.getElementById(id);
    const [text, method, front, every] = ["words", "method", "only-front", "all-columns"].map(findById);
    const [status, more] = ["count", "more"].map(findById);
    const table = findById("trials-table");
    const state = { rows: [], matching: null, limit: FIRST_ROWS, sort: null, down: false, chosen: null, error: "" };
    const all = Array.from({ length: source.rows }, (_, row) => row);
    const onFront = source.columns.on_front.values;
    const haystack = new Map();
    const searched = Object.values(source.columns).filter((column) => column.kind === "words");
    source.words = (row) => {
      if (!haystack.has(row)) haystack.set(row, searched.map((column) => column.values[row] ?? "").join("\n").toLowerCase());
      return haystack.get(row);
    };

    function filter() {
      const conditions = splitWords(text.value).map((token) => parseCondition(source, token));
      state.error = conditions.find((condition) => typeof condition === "string") || "";
      text.setAttribute("aria-invalid", String(state.error !== ""));
      if (method.value) conditions.push((row) => source.columns.label.values[row] === method.value);
      if (front.checked) conditions.push((row) => onFront[row]);
      const usable = conditions.filter((condition) => typeof condition !== "string");
      state.rows = all.filter((row) => usable.every((holds) => holds(row)));
      state.matching = usable.length ? new Set(state.rows) : null;
      state.limit = FIRST_ROWS;
      sortRows();
      showRows();
      fadeDrawn();
    }

    function sortRows() {
      if (!state.sort) return;
      const column = source.columns[state.sort].values;
      const sign = state.down ? -1 : 1;
      const way = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      state.rows.sort((a, b) => {
        if (column[a] === null || column[b] === null) return (column[a] === null) - (column[b] === null); // last
        return sign * way(column[a], column[b]);
      });
    }

    function showRows() {
      const names = every.checked ? Object.keys(source.columns).filter((name) => name !== "on_front") : source.shown;
      table.tHead.replaceChildren(makeHeadRow(names));
      const body = document.createDocumentFragment();
      state.rows.slice(0, state.limit).forEach((row) => body.append(makeBodyRow(names, row)));
      table.tBodies[0].replaceChildren(body);
      showStatus();
    }

    function showStatus() {
      const [count, listed] = [state.rows.length, Math.min(state.limit, state.rows.length)];
      const points = state.rows.filter((row) => onFront[row]).length;
      const some = listed < count ? `; the first ${listed} are listed` : "";
      status.textContent =
        state.error || `${thousands.format(count)} of ${thousands.format(all.length)} trials, ${points} on the front${some}.`;
      more.hidden = listed === count;
      more.textContent = `List all ${thousands.format(count)}`;
    }

    function makeHeadRow(names) {
      const line = makeElement("tr");
      names.forEach((name) => {
        const column = source.columns[name];
        const sorted = state.sort === name ? (state.down ? "descending" : "ascending") : "none";
        const attributes = { scope: "col", "aria-sort": sorted, ...(isWords(column) && { class: "words" }) };
        const head = makeElement("th", "", attributes);
        const button = makeElement("button", column.label, { type: "button", "data-sort": name });
        head.append(button);
        line.append(head);
      });
      return line;
    }

    function makeBodyRow(names, row) {
      const line = makeElement("tr", "", { "data-row": row });
      names.forEach((name, index) => {
        const column = source.columns[name];
        const cellText = formatCell(source, name, row);
        const isName = index === 0;
        const cell = isName ? makeElement("th", "", { scope: "row", class: "words" }) : makeElement("td", cellText);
        if (isName) cell.append(makeTrialButton(cellText, row));
        else if (isWords(column)) cell.className = cellText.length > 40 ? "words long" : "words";
        if (cellText.length > 40) cell.title = cellText;
        line.append(cell);
      });
      if (row === state.chosen) mark(line);
      return line;
    }

    function makeTrialButton(name, row) {
      const button = makeElement("button", name, { type: "button", title: "Show this trial in the figure" });
      if (onFront[row]) {
        button.append(makeElement("span", " ★", { "aria-hidden": "true" }));
        button.append(makeElement("span", " on the front", { class: "unseen" }));
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

    // Shows the row of a point that was clicked, even where the filter hides the row or the list ends before it.
    function reveal(row) {
      if (!state.rows.includes(row)) {
        [text.value, method.value, front.checked] = ["", "", false];
        filter();
      }
      const index = state.rows.indexOf(row);
      if (index >= state.limit) {
        state.limit = index + FIRST_ROWS;
        showRows();
      }
      const line = choose(row);
      line.scrollIntoView({ block: "center" });
      line.querySelector("button").focus({ preventScroll: true });
    }

    function fade(data) {
      data.forEach((trace) => {
        if (!trace.meta) return;
        if (trace.meta.points) trace.selectedpoints = findSelected(trace.meta.rows);
        if (trace.meta.intervals && state.matching) hideIntervals(trace);
      });
    }

    function findSelected(rows) {
      return state.matching ? rows.flatMap((row, i) => (state.matching.has(row) ? [i] : [])) : null;
    }

    function hideIntervals(trace) {
      trace.y = trace.y.map((value, i) => (state.matching.has(trace.meta.rows[i]) ? value : null));
    }

    function fadeDrawn() {
      for (const id of ["main", "objectives"]) {
        const plot = findById(`plot-${id}`);
        if (!plot || !plot.data) continue;
        const indices = plot.data.flatMap((trace, i) => (trace.meta && trace.meta.points ? [i] : []));
        const faded = indices.map((i) => findSelected(plot.data[i].meta.rows));
        window.Plotly.restyle(plot, { selectedpoints: faded }, indices);
        fadeIntervals(plot, id);
      }
    }

    function fadeIntervals(plot, id) {
      const index = plot.data.findIndex((trace) => trace.meta && trace.meta.intervals);
      if (index < 0) return;
      const figure = page.figures.find((candidate) => candidate.id === id);
      const fresh = fillTrace(figure.data[index]);
      if (state.matching) hideIntervals(fresh);
      window.Plotly.restyle(plot, { y: [fresh.y] }, [index]);
    }

    function showPoint(row) {
      const plot = findById("plot-main");
      if (!plot || !plot.data) return;
      plot.data.forEach((trace, curveNumber) => {
        const pointNumber = trace.meta && trace.meta.points ? trace.meta.rows.indexOf(row) : -1;
        if (pointNumber >= 0) window.Plotly.Fx.hover(plot, [{ curveNumber, pointNumber }]);
      });
    }

    function listen(id) {
      const plot = findById(`plot-${id}`);
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
    every.addEventListener("change", showRows);
    findById("filter").addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => {
      state.limit = Infinity;
      showRows();
    });
    table.addEventListener("click", (event) => {
      const name = event.target.dataset.sort;
      if (name) {
        [state.sort, state.down] = [name, state.sort === name && !state.down];
        sortRows();
        showRows();
        table.querySelector(`[data-sort="${name}"]`).focus();
        return;
      }
      const line = event.target.closest("tbody tr");
      if (line) {
        choose(Number(line.dataset.row));
        showPoint(Number(line.dataset.row));
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

  // Draws one figure after the other, so that the first can be read while the others are drawn.
  function drawFrom(index) {
    if (index === page.figures.length) {
      root.dataset.drawn = String(index);
      performance.mark("drawn");
      return;
    }
    const { id } = page.figures[index];
    draw(page.figures[index]);
    if (list && (id === "main" || id === "objectives")) list.listen(id);
    setTimeout(() => drawFrom(index + 1), 0);
  }
  drawFrom(0);

  let onPaper = false;
  function setForPaper(on) {
    if (on === onPaper) return;
    onPaper = on;
    if (on) root.dataset.theme = "light";
    else delete root.dataset.theme;
    document.querySelectorAll("details[open]").forEach((details) => on && details.removeAttribute("open"));
    redraw(on ? PAPER_PIXELS : undefined);
  }
  window.addEventListener("beforeprint", () => setForPaper(true));
  window.addEventListener("afterprint", () => setForPaper(false));
  window.matchMedia("print").addEventListener("change", (event) => setForPaper(event.matches));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => !onPaper && redraw());
})();
