"use strict";
// The structure of the current frame: atoms rewritten in place, bonds found anew, cell, surfaces, labels of chosen atoms.
xai.structure = (() => {
  const {byId, BOND} = xai;
  const {data, N, positions, state, views, colorAt, unpack} = xai.run;
  const cells = data.cell ? unpack(data.cell) : null;
  const probes = data.probes.map(probe => {
    const flat = unpack(probe.points), values = unpack(probe.values);
    return {...probe, values, points: Array.from({length: values.length}, (_, i) => Array.from(flat.subarray(3 * i, 3 * i + 3))),
      faces: Array.from(new Uint16Array(xai.bytes(probe.faces).buffer))};
  });
  const probeScale = data.probeScale ? {...data.probeScale, table: xai.bytes(data.probeScale.table)} : null;
  let viewer = null, model = null, atoms = [], labels = [], labeled = [], edges = [], surface = null;

  function pairs(frame) {
    const found = [], start = 3 * N * frame, p = positions;
    for (let i = 0; i < N; i++) {
      const x = p[start + 3 * i], y = p[start + 3 * i + 1], z = p[start + 3 * i + 2];
      for (let j = i + 1; j < N; j++) {
        const reach = data.reach * (data.radii[i] + data.radii[j]), at = start + 3 * j;
        const dx = p[at] - x, dy = p[at + 1] - y, dz = p[at + 2] - z;
        if (dx * dx + dy * dy + dz * dz < reach * reach) found.push([i, j]);
      }
    }
    return found;
  }

  const place = (frame, i) => Array.from(positions.subarray(3 * (N * frame + i), 3 * (N * frame + i) + 3));

  function cellEdges(frame) {
    const cell = cells.subarray(9 * (data.cellFixed ? 0 : frame)), found = [];
    const corner = bits => [0, 1, 2].map(k => [0, 1, 2].reduce((sum, a) => sum + (bits >> a & 1) * cell[3 * a + k], 0));
    for (let a = 0; a < 8; a++) for (const bit of [1, 2, 4]) if (!(a & bit)) found.push([corner(a), corner(a | bit)]);
    return found;
  }

  // Names of all atoms, and of the chosen ones in a frame of their color; they move with the atoms.
  function drawNames() {
    const chosen = new Map(state.atoms.map(atom => [atom.index, atom.color])), all = byId("names").checked;
    labeled = data.names.map((_, i) => i).filter(i => all || chosen.has(i));
    labels = xai.relabel(viewer, labeled.map(i => {
      const [x, y, z] = place(state.frame, i), style = {position: {x, y, z}, inFront: true, alignment: "center"};
      return [data.names[i], chosen.has(i)
        ? {...style, fontSize: 13, fontColor: "#000000", showBackground: true, backgroundColor: "#FFFFFF", backgroundOpacity: 0.85,
          borderColor: chosen.get(i), borderThickness: 2}
        : {...style, fontSize: N > 30 ? 10 : 12, fontColor: xai.inkOn(colorAt(views[state.view], state.frame, i)), showBackground: false}];
    }));
  }

  function moveNames() {
    labels.forEach((label, k) => label.sprite.position.set(...place(state.frame, labeled[k])));
  }

  function drawSurface() {
    if (surface) viewer.removeShape(surface);
    surface = null;
    const probe = probes.find(p => p.frame === state.frame && p.shown);
    byId("see-through").hidden = !probe;
    if (probe)
      surface = xai.addSurface(viewer, probe.points, probe.faces, row => xai.colorOf(probeScale, probe.values[row]),
        byId("clear").checked ? 0.75 : 1);
  }

  function paint() {
    const view = views[state.view], chosen = new Set(state.atoms.map(atom => atom.index)), quiet = surface !== null;
    const colorfunc = atom => colorAt(view, state.frame, atom.index);
    const size = quiet ? 0.14 : N > 400 ? 0.24 : 0.3;
    model.setStyle({}, {sphere: {scale: size, colorfunc}, stick: {radius: quiet ? 0.07 : 0.11, color: BOND}});
    if (chosen.size)
      model.setStyle({index: [...chosen]}, {sphere: {scale: 1.25 * size, colorfunc}, stick: {radius: 0.11, color: BOND}});
  }

  // Everything that changes with the frame.
  function draw() {
    if (!viewer) return;
    atoms.forEach((atom, i) => { [atom.x, atom.y, atom.z] = place(state.frame, i); });
    xai.setBonds(atoms, pairs(state.frame));
    if (cells && !data.cellFixed) {
      edges.forEach(edge => viewer.removeShape(edge));
      edges = xai.drawEdges(viewer, cellEdges(state.frame));
    }
    if (probes.length) drawSurface();
    paint();
    moveNames();
    viewer.render();
  }

  // Everything that changes with the quantity or the choice of atoms.
  function redraw() {
    if (!viewer) return;
    drawNames();
    draw();
  }

  function start(choose) {
    const first = Array.from({length: N}, (_, i) => place(0, i));
    ({viewer, model} = xai.atomViewer(byId("view"), data.symbols, first, choose));
    atoms = model.selectedAtoms({});
    if (cells && data.cellFixed) edges = xai.drawEdges(viewer, cellEdges(0));
    redraw();
    fit();
    return viewer;
  }

  // All atoms of all frames (of a hundred of them), in the first view.
  function fit() {
    if (!viewer) return;
    const seen = [], every = Math.max(1, Math.floor(xai.run.L / 100));
    for (let frame = 0; frame < xai.run.L; frame += every)
      for (let i = 0; i < N; i++) seen.push(place(frame, i));
    if (cells) cellEdges(0).forEach(edge => seen.push(...edge));
    xai.lookFrom(viewer, byId("view"), data.turn, seen);
  }

  function stop() { viewer = null; }

  const png = () => viewer ? viewer.pngURI() : null;

  return {start, stop, draw, redraw, fit, png, probes, probeScale, resize: () => viewer && viewer.resize()};
})();
