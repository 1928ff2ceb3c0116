"use strict";
(() => {
  const {byId, round, css, inkOn, BOND} = xai;
  const data = JSON.parse(byId("data").textContent);
  const fields = data.fields.map(field => ({...field, table: xai.bytes(field.table)}));
  let field = fields[0], chosen = -1, viewer = null, model = null, surface = null;
  const color = row => field.trusted[row] ? xai.colorOf(field, field.values[row]) : xai.GRAY;
  const unit = field.units === "1" ? "" : " " + field.units;
  const perAtom = data.level === "atom";

  function drawLegend() {
    xai.drawScale(field);
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
    const labels = [];
    const names = byId("names").checked, numbers = byId("numbers").checked && perAtom;
    data.names.forEach((name, atom) => {
      if (!names && !numbers && atom !== chosen) return;
      const [x, y, z] = data.positions[atom], marked = atom === chosen;
      const text = marked && perAtom ? `${name} ${valueOf(atom, 3)}`
        : [names || marked ? name : "", numbers ? round(fields[0].values[atom], 2) : ""].filter(Boolean).join(" ");
      labels.push([text, {
        position: {x, y, z}, inFront: true, alignment: "center", fontSize: marked ? 14 : 13,
        fontColor: perAtom && !marked ? inkOn(color(atom)) : "#000000",
        showBackground: marked, backgroundColor: "#FFFFFF", backgroundOpacity: 0.85, borderColor: "#000000",
        borderThickness: marked ? 1 : 0}]);
    });
    xai.relabel(viewer, labels);
    viewer.render();
  }

  function paint() {
    drawLegend();
    document.querySelectorAll("#rows .swatch").forEach((swatch, i) => { swatch.style.background = css(color(i)); });
    if (!viewer) return;
    const look = perAtom ? {colorfunc: atom => color(atom.index)} : {color: BOND};
    model.setStyle({}, {sphere: {scale: perAtom ? 0.3 : 0.12, ...look}, stick: {radius: perAtom ? 0.12 : 0.07, color: BOND}});
    if (data.faces) {
      if (surface) viewer.removeShape(surface);
      surface = xai.addSurface(viewer, data.points, data.faces.flat(), color, byId("clear").checked ? 0.8 : 1);
    } else if (data.points) {
      viewer.removeAllShapes();
      xai.drawEdges(viewer, data.cell);
      data.points.forEach(([x, y, z], row) => viewer.addSphere({center: {x, y, z}, radius: 0.16, color: css(color(row))}));
    }
    drawLabels();
  }

  function start() {
    ({viewer, model} = xai.atomViewer(byId("view"), data.symbols, data.positions, choose));
    xai.setBonds(model.selectedAtoms({}), data.bonds);
    xai.drawEdges(viewer, data.cell);
    paint();
    xai.lookFrom(viewer, byId("view"), data.turn, data.points || data.positions);
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
    byId("why").textContent = xai.noWebGL(error);
    paint();
  }
  window.viewer = viewer;
  window.ready = true;
})();
