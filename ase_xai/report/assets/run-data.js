"use strict";
// The data of a run page, decoded, and what is being looked at: frame, quantity, chosen atoms, groups shown.
xai.run = (() => {
  const data = JSON.parse(xai.byId("data").textContent);
  const N = data.names.length;

  // Numbers stored as 16-bit integers: one scale, and an offset for each column. -32768 stands for "not known".
  function unpack(packed) {
    const levels = new Int16Array(xai.bytes(packed.data).buffer), n = packed.offset.length;
    const values = new Float64Array(levels.length);
    for (let i = 0; i < levels.length; i++)
      values[i] = levels[i] === -32768 ? NaN : levels[i] * packed.scale + packed.offset[i % n];
    return values;
  }

  const times = data.times, L = times.length;
  const positions = unpack(data.positions);
  const fields = data.fields.map(field => {
    const at = field.at || Array.from({length: L}, (_, k) => k);
    const row = new Int32Array(L).fill(-1);                // the latest row at or before each frame
    at.forEach((frame, r) => row.fill(r, frame));
    return {...field, at, row, values: unpack(field.data)};
  });
  const views = data.views.map(view => view.table ? {...view, table: xai.bytes(view.table)} : view);
  const FEW = 8;                                            // groups whose curves can be told apart; more are drawn when asked for
  const everyGroup = data.groups.map((_, g) => g);
  const state = {frame: 0, view: 0, atoms: [], groups: new Set(everyGroup.slice(0, FEW))};

  // The value that a view shows of an atom in a frame.
  function valueOf(view, frame, atom) {
    const field = fields[view.field], row = field.row[frame];
    return row < 0 ? NaN : field.values[row * N + atom] - (view.minus ? view.minus[atom] : 0);
  }
  const colorAt = (view, frame, atom) =>
    view.colors ? view.colors[atom] : xai.colorOf(view, valueOf(view, frame, atom));

  // The frame whose time is nearest to `t`.
  function nearest(t) {
    let low = 0, high = L - 1;
    while (high - low > 1) { const middle = low + high >> 1; if (times[middle] <= t) low = middle; else high = middle; }
    return t - times[low] <= times[high] - t ? low : high;
  }

  const unit = units => units === "1" || units === "" ? "" : " " + units;
  const timeText = frame => data.unit === "step" ? `step ${times[frame].toFixed(0)}`
    : `${xai.minus(times[frame].toFixed(data.timeDigits))} ${data.unit}`;

  // Elements: create("p", {className: "small"}, "text", child ...). Text is never read as HTML.
  function create(tag, about = {}, ...children) {
    const {data: set = {}, aria = {}, ...rest} = about;
    const element = Object.assign(document.createElement(tag), rest);
    Object.entries(aria).forEach(([name, value]) => element.setAttribute(name === "role" ? name : `aria-${name}`, value));
    Object.entries(set).forEach(([name, value]) => { element.dataset[name] = value; });
    element.append(...children);
    return element;
  }

  return {FEW, everyGroup, data, N, L, times, positions, fields, views, state, unpack, valueOf, colorAt, nearest, unit, timeText, create};
})();
