"use strict";
// Tables of a run page: events, energy flow between groups, means with errors, the report card.
xai.tables = (() => {
  const {byId, css, inkOn} = xai;
  const {data, state, unpack, timeText, create} = xai.run;
  const flow = data.flow ? {...data.flow, work: unpack(data.flow.work), scale: {...data.flow.scale, table: xai.bytes(data.flow.scale.table)}} : null;
  let rows = [], cells = [];

  function table(heads, body, about = {}) {
    const head = create("tr", {}, ...heads.map(([text, kind]) => create("th", {className: kind || "", scope: "col"}, text)));
    return create("table", about, create("thead", {}, head), create("tbody", {}, ...body));
  }
  const fixed = value => Number.isNaN(value) ? "–" : xai.minus((Math.abs(value) < 0.005 ? 0 : value).toFixed(2));
  const cell = (text, className = "") => create("td", {className}, text);

  function drawEvents(go, choose) {
    if (!data.events.given) return;
    byId("events").hidden = false;
    byId("events-note").textContent = data.events.note;
    rows = data.events.rows.map(event => {
      const kind = data.events.kinds[event.kind];
      const jump = create("button", {type: "button", className: "plain", title: "Go to this event"}, data.unit === "step" ? String(event.step) : event.time);
      const row = create("tr", {className: "link"}, create("td", {}, jump), cell(kind.glyph, "mark"), cell(kind.name, "text"),
        cell(event.atoms.map(atom => data.names[atom]).join(", "), "text"), cell(event.text, "text note"));
      row.addEventListener("click", () => { choose(event.atoms); go(event.frame); });
      return row;
    });
    const first = data.unit === "step" ? "step" : `time (${data.unit})`;
    byId("events-table").replaceChildren(rows.length
      ? table([[first], [""], ["event", "text"], ["atoms", "text"], ["details", "text"]], rows)
      : create("p", {className: "small"}, "No event was found."));
  }

  // The last event at or before the current frame.
  function markEvent() {
    let last = -1;
    data.events.rows.forEach((event, i) => { if (event.frame <= state.frame) last = i; });
    rows.forEach((row, i) => row.classList.toggle("now-row", i === last));
  }

  function makeFlow() {
    if (!flow) return;
    const n = flow.labels.length;
    byId("flow").hidden = false;
    cells = Array.from({length: n}, () => Array.from({length: n}, () => cell("")));
    const sums = flow.labels.map(() => cell("", "sum"));
    const body = cells.map((line, g) => create("tr", {}, create("th", {className: "text", scope: "row"}, flow.labels[g]), ...line, sums[g]));
    byId("flow-table").replaceChildren(table([["energy of ↓, work by →", "text"], ...flow.labels.map(label => [label]), ["sum"]], body));
    flow.sums = sums;
  }

  function drawFlow() {
    if (!flow) return;
    const n = flow.labels.length, start = state.frame * n * n;
    cells.forEach((line, g) => {
      let sum = 0;
      line.forEach((one, h) => {
        const value = flow.work[start + g * n + h], color = xai.colorOf(flow.scale, value);
        sum += value;
        one.textContent = fixed(value);
        one.style.background = css(color);
        one.style.color = inkOn(color);
      });
      flow.sums[g].textContent = fixed(sum);
    });
    byId("flow-note").textContent = `${flow.units}, from the start to ${timeText(state.frame)}: what the motion of a column's group did to the energy of a row's. ${flow.note}`;
  }

  function drawMeans() {
    if (!data.means.length) return;
    byId("means").hidden = false;
    byId("means-note").textContent = data.meansNote;
    const body = data.means.map(row => create("tr", {}, cell(row.name, "text"), cell(row.value), cell(row.units, "text"), cell(row.effective),
      cell(row.tau), cell(row.drift)));
    byId("means-table").replaceChildren(table([["quantity", "text"], ["mean ± error"], ["unit", "text"], ["N_eff"], [data.unit === "step" ? "τ (steps)" : `τ (${data.unit})`],
      ["drift"]], body));
  }

  function drawCard() {
    if (!data.card) return;
    byId("card").hidden = false;
    byId("card-note").textContent = data.card.summary;
    const marks = {pass: "✓ pass", fail: "✗ fail", info: "info"};
    const body = data.card.rows.map(row => create("tr", {},
      create("td", {className: "text"}, row.name, ...(row.note ? [create("br"), create("span", {className: "note"}, row.note)] : [])),
      cell(row.value), cell(row.tolerance), cell(row.units, "text"), create("td", {className: `text verdict ${row.verdict}`}, marks[row.verdict] || row.verdict)));
    byId("card-table").replaceChildren(table([["check", "text"], ["value"], ["allowed"], ["unit", "text"], ["verdict", "text"]], body),
      ...data.card.notes.map(note => create("p", {className: "small"}, note)));
  }

  function start(go, choose) {
    drawEvents(go, choose);
    makeFlow();
    drawMeans();
    drawCard();
    frame();
  }

  function frame() {
    markEvent();
    drawFlow();
  }

  return {start, frame};
})();
