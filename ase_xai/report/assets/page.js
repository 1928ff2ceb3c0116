"use strict";
(() => {
  const byId = id => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const fields = data.fields.map(field => ({...field, table: bytes(field.table)}));
  const gray = 0xBDBDBD;
  let field = fields[0], chosen = -1, viewer = null, model = null, surface = null, labels = [];

  // The same steps as Scale.colors in Python: position on the scale, then one of 256 colors.
  const color = row => {
    const value = field.values[row];
    if (value === null || !field.trusted[row]) return gray;
    const at = Math.min(field.high, Math.max(field.low, value));
    const u = field.logarithmic
      ? Math.log(at / field.low) / Math.log(field.high / field.low)
      : (at - field.low) / (field.high - field.low);
    const i = 3 * Math.min(255, Math.max(0, Math.floor(256 * u)));
    return field.table[i] << 16 | field.table[i + 1] << 8 | field.table[i + 2];
  };
  const inkOn = number => {                                 // relative luminance of WCAG 2, as in Python
    const [r, g, b] = [number >> 16, number >> 8 & 255, number & 255].map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.25 ? "#FFFFFF" : "#000000";
  };
  const css = number => "#" + number.toString(16).padStart(6, "0");
  const round = (value, digits = 3) => value === null ? "not known" : String(Number(value.toPrecision(digits))).replace("-", "−");
  const unit = field.units === "1" ? "" : " " + field.units;
  const perAtom = data.level === "atom";

  function drawLegend() {
    const stops = Array.from({length: 256}, (_, i) => `rgb(${field.table.slice(3 * i, 3 * i + 3).join()}) ${i / 2.55}%`);
    byId("bar").style.background = `linear-gradient(to right, ${stops.join()})`;
    const middle = field.logarithmic ? Math.sqrt(field.low * field.high) : (field.low + field.high) / 2;
    byId("ticks").style.visibility = field.colored ? "visible" : "hidden";
    byId("low").textContent = (field.beyond ? "≤ " : "") + round(field.low);
    byId("middle").textContent = round(middle);
    byId("high").textContent = (field.beyond ? "≥ " : "") + round(field.high);
    byId("quantity").firstElementChild.textContent = field.name;
  }

  function valueOf(atom, digits) {
    const value = fields[0].values[atom], spread = fields[1] ? fields[1].values[atom] : null;
    return round(value, digits) + (spread === null ? "" : " ± " + round(spread, 2)) + unit;
  }

  // What a surface or a cloud says near an atom: its points that have no other atom nearer.
  function nearAtom(atom) {
    const near = [];
    data.points.forEach((p, row) => {
      let best = -1, least = Infinity;
      data.positions.forEach((q, i) => {
        const d = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2;
        if (d < least) { least = d; best = i; }
      });
      if (best === atom && field.trusted[row] && field.values[row] !== null) near.push(field.values[row]);
    });
    if (!near.length) return "no trusted points near it";
    const mean = near.reduce((a, b) => a + b, 0) / near.length;
    const ends = near.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
    return `${near.length} points near it, ${round(ends[0])} to ${round(ends[1])}, mean ${round(mean)}${unit}`;
  }

  function choose(atom) {
    chosen = atom;
    const note = perAtom && !fields[0].trusted[atom] ? " (not to be trusted)" : "";
    byId("chosen").textContent = `${data.names[atom]}: ${perAtom ? valueOf(atom, 6) : nearAtom(atom)}${note}`;
    document.querySelectorAll("#rows tbody tr").forEach((row, i) => row.classList.toggle("chosen", i === atom));
    if (viewer) drawLabels();
  }

  function drawTable() {
    if (!perAtom) return;
    const head = ["atom", ...fields.map((f, i) => i ? "1σ" : f.units === "1" ? "value" : f.units)];
    const table = document.createElement("table"), body = table.createTBody();
    const heads = table.createTHead().insertRow();
    head.forEach(text => { const cell = document.createElement("th"); cell.textContent = text; heads.append(cell); });
    data.names.forEach((name, atom) => {
      const row = body.insertRow(), first = row.insertCell(), swatch = document.createElement("span");
      swatch.className = "swatch";
      first.append(swatch, name);
      fields.forEach(f => { row.insertCell().textContent = round(f.values[atom], 4); });
      row.addEventListener("click", () => choose(atom));
    });
    byId("rows").replaceChildren(table);
  }

  function drawLabels() {
    labels.forEach(label => viewer.removeLabel(label));
    labels = [];
    const names = byId("names").checked, numbers = byId("numbers").checked && perAtom;
    data.names.forEach((name, atom) => {
      if (!names && !numbers && atom !== chosen) return;
      const [x, y, z] = data.positions[atom], marked = atom === chosen;
      const text = marked && perAtom ? `${name} ${valueOf(atom, 3)}`
        : [names || marked ? name : "", numbers ? round(fields[0].values[atom], 2) : ""].filter(Boolean).join(" ");
      labels.push(viewer.addLabel(text, {
        position: {x, y, z}, inFront: true, alignment: "center", fontSize: marked ? 14 : 13,
        fontColor: perAtom && !marked ? inkOn(color(atom)) : "#000000",
        showBackground: marked, backgroundColor: "#FFFFFF", backgroundOpacity: 0.85, borderColor: "#000000",
        borderThickness: marked ? 1 : 0}));
    });
    viewer.render();
  }

  function paint() {
    drawLegend();
    document.querySelectorAll("#rows .swatch").forEach((swatch, i) => { swatch.style.background = css(color(i)); });
    if (!viewer) return;
    const look = perAtom ? {colorfunc: atom => color(atom.index)} : {color: "#8C8C8C"};
    model.setStyle({}, {sphere: {scale: perAtom ? 0.3 : 0.12, ...look}, stick: {radius: perAtom ? 0.12 : 0.07, color: "#8C8C8C"}});
    if (data.faces) {
      if (surface) viewer.removeShape(surface);
      surface = viewer.addCustom({
        vertexArr: data.points.map(p => new $3Dmol.Vector3(...p)), faceArr: data.faces.flat(), opacity: byId("clear").checked ? 0.8 : 1,
        color: data.points.map((_, row) => $3Dmol.CC.color(color(row)))});
    } else if (data.points) {
      viewer.removeAllShapes();
      drawCell();
      data.points.forEach(([x, y, z], row) => viewer.addSphere({center: {x, y, z}, radius: 0.16, color: css(color(row))}));
    }
    drawLabels();
  }

  function drawCell() {
    for (const [[x, y, z], [u, v, w]] of data.cell)
      viewer.addLine({start: {x, y, z}, end: {x: u, y: v, z: w}, color: "#6E6E6E"});
  }

  function start() {
    viewer = $3Dmol.createViewer(byId("view"), {backgroundColor: "white"});
    if (!viewer) throw new Error("the viewer was not made");
    model = viewer.addModel();
    const bonds = data.symbols.map(() => []);
    data.bonds.forEach(([i, j]) => { bonds[i].push(j); bonds[j].push(i); });
    model.addAtoms(data.symbols.map((elem, i) => {
      const [x, y, z] = data.positions[i];
      return {elem, index: i, serial: i, x, y, z, bonds: bonds[i], bondOrder: bonds[i].map(() => 1)};
    }));
    model.setClickable({}, true, atom => choose(atom.index));
    drawCell();
    paint();
    viewer.setView([0, 0, 0, 0, ...data.turn]);
    viewer.zoomTo();
    viewer.zoom(0.9 * Math.min(1, byId("view").clientWidth / byId("view").clientHeight));
    viewer.render();
  }

  drawTable();
  drawLegend();
  fields.forEach((f, i) => byId("field").add(new Option(f.name, i)));
  byId("choice").hidden = fields.length < 2;
  byId("field").addEventListener("change", event => { field = fields[event.target.value]; paint(); });
  ["names", "numbers"].forEach(id => byId(id).addEventListener("change", () => viewer && drawLabels()));
  byId("clear").addEventListener("change", () => viewer && paint());
  byId("numbers").parentElement.hidden = !perAtom;
  byId("clear").parentElement.hidden = !data.faces;
  try {
    start();
  } catch (error) {
    viewer = null;
    ["frame", "names", "numbers", "clear"].forEach(id => { (id === "frame" ? byId(id) : byId(id).parentElement).hidden = true; });
    byId("chosen").textContent = perAtom ? "Click a row to read its value." : "";
    byId("static").style.display = "block";
    byId("why").textContent = `The picture that can be turned needs WebGL, which this browser did not give (${error.message || error}). `
      + "This is the printed figure instead.";
    paint();
  }
  window.viewer = viewer;
  window.ready = true;
})();
