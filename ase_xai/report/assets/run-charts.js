"use strict";
// Time series, the carpet of atoms over time, and the spectrum, drawn by uPlot. Plots over time share crosshair and zoom.
xai.charts = (() => {
  const {byId, round} = xai;
  const {data, N, L, times, fields, views, state, valueOf, unpack, create} = xai.run;
  const SOFT = "#59636e", GRID = "#eceef1", FONT = "11px system-ui, sans-serif";
  const LEFT = 56, RIGHT = 20;
  const xs = times, sync = uPlot.sync("run");
  const frames = data.panels.map(panel => ({...panel, columns: panel.series.map(one => unpack(one.data))}));
  let go = () => {}, pick = () => {}, range = null;

  const tick = value => xai.minus(String(Number(value.toPrecision(6))));
  const axis = more => ({font: FONT, stroke: SOFT, grid: {stroke: GRID, width: 1}, ticks: {stroke: GRID, width: 1, size: 4}, ...more});
  const xAxis = label => axis({size: 22, gap: 3, space: 60, label: label || undefined, labelSize: 16, labelFont: FONT, labelGap: 0,
    values: (_, splits) => splits.map(tick)});
  const yAxis = more => axis({size: LEFT, gap: 5, space: 26, values: (_, splits) => splits.map(tick), ...more});
  const timeLabel = data.unit === "step" ? "step" : `time (${data.unit})`;

  // Thin lines at the events, in the canvas; the current frame is a line above it, so that moving costs no drawing.
  function eventLines(u) {
    const {ctx, bbox} = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.strokeStyle = "rgba(213, 94, 0, 0.35)";
    ctx.lineWidth = devicePixelRatio;
    data.events.rows.forEach(event => {
      const x = Math.round(u.valToPos(times[event.frame], "x", true)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    });
    ctx.restore();
  }

  function timePlot(element, about, rows, onClick) {
    const now = create("div", {className: "now"});
    const place = u => {
      const left = u.valToPos(times[state.frame], "x");
      now.style.transform = `translateX(${left - 1}px)`;
      now.style.visibility = left >= -1 && left <= u.over.clientWidth + 1 ? "visible" : "hidden";
    };
    const {hooks = {}, scales = {}, ...rest} = about;
    const plot = new uPlot({
      width: Math.max(200, element.clientWidth), padding: [6, RIGHT, 0, 0], legend: {show: false},
      cursor: {sync: {key: sync.key}, y: false, drag: {x: true, y: false}, points: {show: false}},
      scales: {x: {time: false, range: (_, low, high) => low === high ? [low - 1, high + 1] : [low, high]}, ...scales},
      ...rest,
      hooks: {...hooks, setScale: [(u, key) => { if (key === "x") range = [u.scales.x.min, u.scales.x.max]; }], draw: [...(hooks.draw || []), place]},
    }, rows, element);
    plot.over.append(now);
    let down = 0;
    plot.over.addEventListener("pointerdown", event => { down = event.clientX; });
    plot.over.addEventListener("click", event => {
      if (Math.abs(event.clientX - down) > 4) return;
      const box = plot.over.getBoundingClientRect();
      go(xai.run.nearest(plot.posToVal(event.clientX - box.left, "x")));
      if (onClick) onClick((event.clientY - box.top) / box.height);
    });
    if (range) plot.setScale("x", {min: range[0], max: range[1]});
    return {plot, place: () => place(plot), element};
  }

  // --- curves of groups and atoms ---------------------------------------------------------------------------------------

  // One number a frame that has one: a sum or mean over atoms, minus its mean over the run where that is the reference.
  function column(field, members) {
    const values = new Array(L).fill(null), share = field.combine === "mean" ? 1 / members.length : 1;
    const shift = field.relative ? members.reduce((sum, i) => sum + field.means[i], 0) * share : 0;
    field.at.forEach((frame, row) => {
      let sum = 0;
      for (const i of members) sum += field.values[row * N + i];
      values[frame] = Number.isNaN(sum) ? null : sum * share - shift;
    });
    return values;
  }

  function lines(field) {
    const groups = data.groups.filter((_, g) => state.groups.has(g));
    const quiet = state.atoms.length > 0;
    return [
      ...groups.map(group => ({name: group.name, color: group.color, dash: group.dash, width: quiet ? 1 : 1.5, alpha: quiet ? 0.45 : 1,
        values: column(field, group.atoms)})),
      ...state.atoms.map(atom => ({name: data.names[atom.index], color: atom.color, dash: atom.dash, width: 2, alpha: 1,
        values: column(field, [atom.index])})),
    ];
  }

  // Charge that has passed between groups along bonds, and along each bond of a chosen atom, away from that atom.
  function flowLines({bonds, passed, pairs, gap}) {
    const share = signs => Array.from({length: L}, (_, k) => signs.reduce((sum, [b, sign]) => sum + sign * passed[k * bonds.length + b], 0));
    const look = state.atoms.length ? {width: 1, alpha: 0.45} : {width: 1.5, alpha: 1};
    const between = pairs.map(pair => ({...pair, ...look, values: share(pair.signs)}));
    const own = state.atoms.flatMap(atom => bonds.flatMap(([i, j], b) => {
      if (i !== atom.index && j !== atom.index) return [];
      const other = i === atom.index ? j : i;
      return [{name: `${data.names[atom.index]} → ${data.names[other]}`, color: atom.color, values: share([[b, i === atom.index ? 1 : -1]])}];
    }).map((line, place) => ({...line, dash: [[], [6, 3], [2, 2], [8, 3, 2, 3]][place % 4], width: 2, alpha: 1})));
    return [...between, {name: "along no bond", color: "#8a9098", dash: [2, 2], width: 1, alpha: 1, values: Array.from(gap)}, ...own];
  }

  const panels = [
    ...frames.map(panel => ({title: panel.title, units: panel.units, digits: panel.digits, at: null,
      lines: () => panel.series.map((one, i) => ({...one, width: 1.5, alpha: 1, values: Array.from(panel.columns[i], v => Number.isNaN(v) ? null : v)}))})),
    ...fields.map(field => ({title: field.title, units: field.units, field, lines: () => lines(field)})),
  ];
  panels.at(-1).last = true;
  if (data.chargeFlow) {
    const flow = {...data.chargeFlow, passed: unpack(data.chargeFlow.passed), gap: unpack(data.chargeFlow.gap)};
    panels.push({title: "charge passed since the start", units: "e", flow, fixed: true, last: true, home: "charge-flow-plot", lines: () => flowLines(flow)});
    byId("charge-flow").hidden = false;
    byId("charge-flow-note").textContent = flow.note;
  }

  function drawPanel(panel) {
    const shown = panel.lines(), box = panel.box.lastElementChild;
    if (panel.drawn) panel.drawn.plot.destroy();
    panel.shown = shown;
    panel.values = shown.map(line => create("b"));
    panel.box.querySelector(".values").replaceChildren(...shown.map((line, i) => create("span", {},
      keyOf(line), ` ${line.name} `, panel.values[i])));
    const sparse = panel.field && panel.field.at.length < L;
    panel.drawn = timePlot(box, {
      height: panel.last ? 150 : 132, axes: [xAxis(panel.last ? timeLabel : ""), yAxis({})],
      series: [{}, ...shown.map(line => ({stroke: line.color, width: line.width, alpha: line.alpha, dash: line.dash, spanGaps: Boolean(sparse),
        points: {show: Boolean(sparse) || L < 40, size: 4}}))],
      hooks: {drawClear: [eventLines]},
    }, [xs, ...shown.map(line => line.values)]);
    tell(panel);
  }

  const keyOf = line => {
    const key = create("span", {className: "key", aria: {hidden: "true"}});
    key.style.borderColor = line.color;
    key.style.borderTopStyle = line.dash && line.dash.length ? "dashed" : "solid";
    return key;
  };

  // Values at the current frame, in the heading of a panel.
  function tell(panel) {
    panel.shown.forEach((line, i) => {
      let frame = state.frame;
      while (frame >= 0 && line.values[frame] === null) frame--;
      const value = frame < 0 ? null : line.values[frame];
      panel.values[i].textContent = value === null ? "–" : panel.fixed ? xai.minus((Math.round(1000 * value) / 1000 || 0).toFixed(3)) : round(value, panel.digits || 3);
    });
  }

  function makePanels() {
    panels.forEach(panel => {
      const label = `${panel.title}${panel.units && panel.units !== "1" ? ` (${panel.units})` : ""}`;
      panel.box = create("div", {className: "panel"},
        create("header", {}, create("h3", {}, label), create("p", {className: "values"})),
        create("div", {aria: {role: "img", label: `${label} over time; a click goes to that time`}}));
      byId(panel.home || "panels").append(panel.box);
    });
  }

  // Of `some` panels, by default all.
  const drawPanels = (some = () => true) => panels.forEach(panel => some(panel) && drawPanel(panel));

  // --- carpet -----------------------------------------------------------------------------------------------------------

  const order = data.groups.flatMap(group => group.atoms), rowOf = [];
  order.forEach((atom, row) => { rowOf[atom] = row; });
  let carpet = null;

  // Each pixel column is the mean over the frames that fall into it, or the nearest frame; gray where no value is known.
  function paintCarpet(u) {
    const {ctx, bbox} = u, view = views[state.view], width = Math.max(1, Math.round(bbox.width)), rows = order.length;
    const image = new ImageData(width, rows), words = new Uint32Array(image.data.buffer);
    const frameAt = x => xai.run.nearest(u.posToVal((bbox.left + x) / devicePixelRatio - bbox.left / devicePixelRatio, "x"));
    const low = u.scales.x.min, high = u.scales.x.max;
    const bins = Array.from({length: width}, () => []);
    for (let k = 0; k < L; k++) {
      const x = Math.floor((times[k] - low) / (high - low || 1) * (width - 1) + 0.5);
      if (x >= 0 && x < width) bins[x].push(k);
    }
    for (let x = 0; x < width; x++) {
      const found = bins[x].length ? bins[x] : [frameAt(x)];
      for (let row = 0; row < rows; row++) {
        let color;
        if (view.colors) color = view.colors[order[row]];
        else {
          let sum = 0, known = 0;
          for (const k of found) {
            const value = valueOf(view, k, order[row]);
            if (!Number.isNaN(value)) { sum += value; known++; }
          }
          color = xai.colorOf(view, known ? sum / known : NaN);
        }
        words[row * width + x] = 0xff000000 | (color & 255) << 16 | color & 0xff00 | color >> 16;
      }
    }
    const small = new OffscreenCanvas(width, rows);
    small.getContext("2d").putImageData(image, 0, 0);
    ctx.save();
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(small, 0, 0, width, rows, bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.fillStyle = "#fff";
    let row = 0;
    data.groups.slice(0, -1).forEach(group => {
      row += group.atoms.length;
      ctx.fillRect(bbox.left, bbox.top + bbox.height * row / rows - devicePixelRatio / 2, bbox.width, 1.5 * devicePixelRatio);
    });
    ctx.restore();
  }

  function markEvents(u) {
    const {ctx, bbox} = u, height = bbox.height / order.length;
    eventLines(u);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.font = `${Math.round(11 * devicePixelRatio)}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    ctx.textBaseline = "middle";
    ctx.lineWidth = 2.5 * devicePixelRatio;
    ctx.strokeStyle = "#fff";
    ctx.fillStyle = "#111";
    data.events.rows.forEach(event => event.atoms.forEach(atom => {
      const x = u.valToPos(times[event.frame], "x", true), y = bbox.top + (rowOf[atom] + 0.5) * height;
      ctx.strokeText(data.events.kinds[event.kind].glyph, x, y);
      ctx.fillText(data.events.kinds[event.kind].glyph, x, y);
    }));
    ctx.restore();
  }

  function drawCarpet() {
    const element = byId("carpet-plot"), rows = order.length;
    const each = Math.min(16, Math.max(4, Math.floor(420 / rows))), height = Math.min(460, Math.max(90, each * rows));
    const byAtom = height / rows >= 11;
    const places = [];
    let row = 0;
    data.groups.forEach(group => { places.push(row + group.atoms.length / 2); row += group.atoms.length; });
    const splits = byAtom ? order.map((_, i) => rows - i - 0.5) : places.map(place => rows - place);
    const titles = byAtom ? order.map(atom => data.names[atom]) : data.groups.map(group => group.name.length > 9 ? group.name.slice(0, 8) + "…" : group.name);
    if (carpet) carpet.plot.destroy();
    carpet = timePlot(element, {
      height: height + 46,
      scales: {y: {range: () => [0, rows]}},
      axes: [xAxis(timeLabel), yAxis({splits: () => splits, values: () => titles, filter: (_, all) => all, grid: {show: false}, ticks: {show: false}, space: 1})],
      series: [{}, {stroke: "transparent", points: {show: false}}],
      hooks: {drawClear: [paintCarpet], draw: [markEvents]},
    }, [xs, xs.map(() => null)], height => pick(order[Math.min(rows - 1, Math.max(0, Math.floor(height * rows)))]));
    byId("carpet-note").textContent = `Each row is an atom, colored as the structure: ${views[state.view].name}. `
      + "A click goes to that time and chooses the atom.";
  }

  // --- spectrum ---------------------------------------------------------------------------------------------------------

  let spectra = [];
  function drawSpectrum() {
    spectra.forEach(plot => plot.destroy());
    spectra = [];
    if (!data.spectrum) return;
    const {wavenumbers, plots: parts} = data.spectrum, x = Array.from(unpack(wavenumbers));
    byId("infrared").hidden = false;
    byId("infrared-note").textContent = data.spectrum.note;
    byId("infrared-plots").replaceChildren();
    parts.forEach((part, index) => {
      const values = create("p", {className: "values"});
      values.append(...part.series.map(one => create("span", {}, keyOf(one), ` ${one.name}`)));
      const box = create("div", {aria: {role: "img", label: part.title}});
      byId("infrared-plots").append(create("div", {className: "panel"}, create("header", {}, create("h3", {}, part.title), values), box));
      spectra.push(new uPlot({
        width: Math.max(200, box.clientWidth), height: index ? 150 : 220, padding: [6, RIGHT, 0, 0], legend: {show: false},
        cursor: {sync: {key: "infrared"}, y: false, points: {show: false}},
        scales: {x: {time: false, dir: -1}}, axes: [xAxis(index === parts.length - 1 ? "wavenumber (1/cm)" : ""), yAxis({})],
        series: [{}, ...part.series.map(one => ({stroke: one.color, width: one.width, dash: one.dash, points: {show: false}})),
          ...(part.band || []).map(() => ({stroke: "transparent", points: {show: false}}))],
        bands: part.band ? [{series: [part.series.length + 1, part.series.length + 2], fill: "rgba(34, 34, 34, 0.16)"}] : [],
      }, [x, ...[...part.series.map(one => one.data), ...(part.band || [])].map(one => Array.from(unpack(one)))], box));
    });
  }

  // --- all of them ------------------------------------------------------------------------------------------------------

  function start(onTime, onAtom) {
    go = onTime;
    pick = onAtom;
    makePanels();
    drawPanels();
    drawCarpet();
    drawSpectrum();
    let width = byId("panels").clientWidth;
    new ResizeObserver(() => {
      if (byId("panels").clientWidth === width) return;
      width = byId("panels").clientWidth;
      [...panels.map(panel => panel.drawn), carpet].forEach(({plot, element}) => plot.setSize({width: element.clientWidth, height: plot.height}));
      drawSpectrum();
    }).observe(byId("panels"));
  }

  function frame() {
    panels.forEach(panel => { panel.drawn.place(); tell(panel); });
    carpet.place();
  }

  // Another choice of atoms or groups: atomic fields and bonds have curves of them.
  function selection() {
    drawPanels(panel => panel.field || panel.flow);
  }

  return {start, frame, selection, carpet: drawCarpet, keyOf, plots: () => panels.map(panel => panel.drawn.plot)};
})();
