"use strict";
// What all pages share: numbers, colors, the legend of a scale, and a viewer of atoms.
const xai = (() => {
  const GRAY = 0xBDBDBD, BOND = "#8C8C8C", LINE = "#6E6E6E";
  const byId = id => document.getElementById(id);
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const css = number => "#" + number.toString(16).padStart(6, "0");
  const minus = text => text.replace("-", "−").replace("e+", "e");
  const round = (value, digits = 3) =>
    value === null || Number.isNaN(value) ? "not known" : minus(String(Number(value.toPrecision(digits))));

  // The same steps as Scale.colors in Python: position on the scale, then one of 256 colors; gray where there is no number.
  const colorOf = (scale, value) => {
    if (value === null || Number.isNaN(value)) return GRAY;
    const at = Math.min(scale.high, Math.max(scale.low, value));
    const u = scale.logarithmic
      ? Math.log(at / scale.low) / Math.log(scale.high / scale.low)
      : (at - scale.low) / (scale.high - scale.low);
    const i = 3 * Math.min(255, Math.max(0, Math.floor(256 * u)));
    return scale.table[i] << 16 | scale.table[i + 1] << 8 | scale.table[i + 2];
  };
  const inkOn = number => {                                 // relative luminance of WCAG 2, as in Python
    const [r, g, b] = [number >> 16, number >> 8 & 255, number & 255].map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.25 ? "#FFFFFF" : "#000000";
  };

  function drawScale(scale) {
    const stops = Array.from({length: 256}, (_, i) => `rgb(${scale.table.slice(3 * i, 3 * i + 3).join()}) ${i / 2.55}%`);
    byId("bar").style.background = `linear-gradient(to right, ${stops.join()})`;
    const middle = scale.logarithmic ? Math.sqrt(scale.low * scale.high) : (scale.low + scale.high) / 2;
    byId("ticks").style.visibility = scale.colored ? "visible" : "hidden";
    byId("low").textContent = (scale.beyond ? "≤ " : "") + round(scale.low);
    byId("middle").textContent = round(middle);
    byId("high").textContent = (scale.beyond ? "≥ " : "") + round(scale.high);
  }

  // A 3Dmol.js viewer with one model of atoms at `positions` ([x, y, z] each). Throws where there is no WebGL.
  function atomViewer(element, symbols, positions, choose) {
    const viewer = $3Dmol.createViewer(element, {backgroundColor: "white"});
    if (!viewer) throw new Error("the viewer was not made");
    const model = viewer.addModel();
    model.addAtoms(symbols.map((elem, i) => {
      const [x, y, z] = positions[i];
      return {elem, index: i, serial: i, x, y, z, bonds: [], bondOrder: []};
    }));
    model.setClickable({}, true, atom => choose(atom.index));
    return {viewer, model};
  }

  function setBonds(atoms, pairs) {
    atoms.forEach(atom => { atom.bonds = []; atom.bondOrder = []; });
    for (const [i, j] of pairs) {
      atoms[i].bonds.push(j); atoms[i].bondOrder.push(1);
      atoms[j].bonds.push(i); atoms[j].bondOrder.push(1);
    }
  }

  function drawEdges(viewer, edges) {
    return edges.map(([[x, y, z], [u, v, w]]) =>
      viewer.addLine({start: {x, y, z}, end: {x: u, y: v, z: w}, color: LINE}));
  }

  // Triangles in the colors of their corners; 3Dmol.js interpolates between them.
  function addSurface(viewer, points, faces, paint, opacity) {
    return viewer.addCustom({
      vertexArr: points.map(p => new $3Dmol.Vector3(...p)), faceArr: faces, opacity,
      color: points.map((_, row) => $3Dmol.CC.color(paint(row)))});
  }

  // New labels, [text, style] each, in place of the old ones. One by one 3Dmol.js would draw everything each time.
  function relabel(viewer, labels) {
    viewer.labels.forEach(label => label.dispose());
    viewer.removeAllLabels();
    return labels.map(([text, style]) => viewer.addLabel(text, style, undefined, true));
  }

  // A view along the axes of `turn` in which all points ([x, y, z] each) fill 0.86 of the element, air included.
  function lookFrom(viewer, element, turn, points) {
    const [qx, qy, qz, qw] = turn, air = 0.7;
    const middle = [0, 1, 2].map(k => (Math.min(...points.map(p => p[k])) + Math.max(...points.map(p => p[k]))) / 2);
    const turned = points.map(p => {                       // q v q*
      const [x, y, z] = [p[0] - middle[0], p[1] - middle[1], p[2] - middle[2]];
      const [u, v, w] = [qy * z - qz * y + qw * x, qz * x - qx * z + qw * y, qx * y - qy * x + qw * z];
      return [x + 2 * (qy * w - qz * v), y + 2 * (qz * u - qx * w), z + 2 * (qx * v - qy * u)];
    });
    const aspect = element.clientWidth / element.clientHeight;
    // 3Dmol.js looks from z = 150 with an opening of 20 degrees; nearer points look larger.
    const away = Math.max(...turned.map(([x, y, z]) =>
      z + (Math.max(Math.abs(y) + air, (Math.abs(x) + air) / aspect) / 0.86) / Math.tan(Math.PI / 18)));
    viewer.zoomTo();
    viewer.setView([-middle[0], -middle[1], -middle[2], 150 - away, ...turn]);
    viewer.render();
  }

  const noWebGL = error => "The picture that can be turned needs WebGL, which this browser did not give "
    + `(${error.message || error}). This is the printed figure instead.`;

  return {GRAY, BOND, byId, bytes, css, minus, round, colorOf, inkOn, drawScale, atomViewer, setBonds, drawEdges, addSurface,
    relabel, lookFrom, noWebGL};
})();
