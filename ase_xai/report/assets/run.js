"use strict";
// The page of a run: one frame, one quantity and one choice of atoms for structure, charts and tables together.
(() => {
  const {byId, css, round} = xai;
  const {FEW, everyGroup, data, N, L, state, views, fields, valueOf, timeText, unit, create} = xai.run;
  const {structure, charts, tables} = xai;
  const MAX_CHOSEN = 6;
  let playing = 0, last = 0, due = 0;

  // --- frame ------------------------------------------------------------------------------------------------------------

  function go(frame) {
    const next = Math.min(L - 1, Math.max(0, Math.round(frame)));
    state.frame = next;
    byId("slider").value = next;
    const own = data.kept ? data.kept[next] : next;
    byId("where").textContent = `${timeText(next)} · frame ${(own + 1).toLocaleString("en")} of ${data.total.toLocaleString("en")}`;
    byId("slider").setAttribute("aria-valuetext", byId("where").textContent);
    structure.draw();
    charts.frame();
    tables.frame();
    tellChosen();
    byId("probes").querySelectorAll("button").forEach((button, i) => {
      const probe = structure.probes[i];
      button.setAttribute("aria-pressed", String(probe.shown && probe.frame === next));
    });
    drawLegend();
  }

  function step(now) {
    if (!playing) return;
    const rate = Number(byId("speed").value);
    due += Math.min(0.25, (now - last) / 1000) * rate;
    last = now;
    const whole = Math.floor(due);
    if (whole) {
      due -= whole;
      if (state.frame + whole >= L - 1) { go(L - 1); play(false); return; }
      go(state.frame + whole);
    }
    playing = requestAnimationFrame(step);
  }

  function play(on) {
    if (playing) cancelAnimationFrame(playing);
    playing = 0;
    byId("play").setAttribute("aria-label", on ? "pause" : "play");
    byId("chosen").setAttribute("aria-live", on ? "off" : "polite");
    byId("play-shape").setAttribute("d", on ? "M4 2h3v12h-3zM9 2h3v12h-3z" : "M4 2l10 6-10 6z");
    if (!on) return;
    if (state.frame >= L - 1) go(0);
    last = performance.now();
    due = 0;
    playing = requestAnimationFrame(step);
  }

  // --- choice of atoms and groups ---------------------------------------------------------------------------------------

  function choose(indices) {
    state.atoms = [...new Set(indices)].slice(-MAX_CHOSEN).map((index, place) => ({index, ...data.marks[place]}));
    drawChips();
    charts.selection();
    structure.redraw();
    tellChosen();
  }

  const chosen = () => state.atoms.map(atom => atom.index);
  const toggle = atom => choose(chosen().includes(atom) ? chosen().filter(i => i !== atom) : [...chosen(), atom]);
  const add = atom => chosen().includes(atom) || choose([...chosen(), atom]);

  function tellChosen() {
    const told = state.atoms.map(({index}) => {
      const group = data.groups.find(one => one.atoms.includes(index));
      const values = fields.map((field, f) => {
        const view = views.find(one => one.field === f);
        return `${view.short} ${round(valueOf(view, state.frame, index))}${unit(view.units)}`;
      });
      return `${data.names[index]} (${group.name}): ${values.join(", ")}`;
    });
    byId("chosen").textContent = told.join("\n") || "Click an atom to see its curves.";
  }

  function chip(text, line, pressed, title, act) {
    const button = create("button", {type: "button", className: "chip", title, aria: {pressed: String(pressed)}},
      charts.keyOf(line), create("span", {}, text));
    button.addEventListener("click", act);
    return button;
  }

  function allOrNone() {
    const all = state.groups.size < data.groups.length;
    const button = create("button", {type: "button", className: "chip"}, all ? `all ${data.groups.length} groups` : "no groups");
    button.addEventListener("click", () => {
      state.groups = new Set(all ? everyGroup : []);
      drawChips();
      charts.selection();
    });
    return button;
  }

  function drawChips() {
    const focused = [...byId("chips").children].indexOf(document.activeElement);
    byId("chips").replaceChildren(
      ...data.groups.map((group, g) => chip(`${group.name} (${group.atoms.length})`, group, state.groups.has(g), "Show or hide this group", () => {
        if (!state.groups.delete(g)) state.groups.add(g);
        drawChips();
        charts.selection();
      })),
      ...(data.groups.length > FEW ? [allOrNone()] : []),
      ...state.atoms.map(atom => chip(`${data.names[atom.index]} ×`, atom, true, "Take this atom away", () => toggle(atom.index))));
    if (focused >= 0 && byId("chips").children[focused]) byId("chips").children[focused].focus();
  }

  // --- colors -----------------------------------------------------------------------------------------------------------

  // What gray means, where the quantity has gaps: anywhere in the run, or before it was first asked for.
  function gray(view) {
    let unknown = 0;
    for (let i = 0; i < N; i++) if (Number.isNaN(valueOf(view, state.frame, i))) unknown++;
    return unknown || view.gaps ? [[`not known, or not to be trusted: ${unknown} of ${N} atoms in this frame`, xai.GRAY]] : [];
  }

  function drawLegend() {
    const probe = structure.probes.find(one => one.shown && one.frame === state.frame);
    const view = probe ? {...structure.probeScale, ...data.probeWords, title: probe.title} : views[state.view];
    byId("scale").hidden = Boolean(view.colors) || !view.colored;
    if (!view.colors) xai.drawScale(view);
    byId("bar").setAttribute("aria-label", `color scale of ${view.name}: ${round(view.low || 0)} to ${round(view.high || 0)}`);
    byId("entries").replaceChildren(...(probe ? [] : view.entries || gray(view)).map(([name, color]) => {
      const box = create("span", {className: "key"});
      Object.assign(box.style, {borderTopWidth: "10px", borderColor: css(color), width: "12px"});
      return create("li", {}, box, ` ${name}`);
    }));
    byId("about-scale").textContent = (probe ? `Surface: ${view.name}. ` : "") + view.words;
  }

  function recolor(view) {
    state.view = view;
    drawLegend();
    charts.carpet();
    structure.redraw();
  }

  // --- start ------------------------------------------------------------------------------------------------------------

  function wire() {
    byId("slider").max = L - 1;
    byId("slider").addEventListener("input", event => go(event.target.value));
    byId("play").addEventListener("click", () => play(!playing));
    byId("fit").addEventListener("click", structure.fit);
    views.forEach((view, i) => byId("quantity").add(new Option(view.name, i)));
    byId("quantity").addEventListener("change", event => recolor(Number(event.target.value)));
    byId("names").checked = N <= 30;
    byId("names").addEventListener("change", structure.redraw);
    byId("clear").addEventListener("change", structure.redraw);
    byId("probes").hidden = !structure.probes.length;
    structure.probes.forEach(probe => {
      const button = create("button", {type: "button", title: "Show or hide this surface", aria: {pressed: "false"}}, timeText(probe.frame));
      button.addEventListener("click", () => {
        const show = !(probe.shown && probe.frame === state.frame);
        structure.probes.forEach(one => { one.shown = false; });
        probe.shown = show;
        go(probe.frame);
      });
      byId("probes").append(button);
    });
    document.addEventListener("keydown", pressed);
  }

  function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select, summary")) return;
    const jump = event.shiftKey ? 10 : 1;
    const moves = {ArrowLeft: state.frame - jump, ArrowRight: state.frame + jump, Home: 0, End: L - 1};
    if (event.key === " " && !(event.target.closest("button, input[type=checkbox]"))) play(!playing);
    else if (event.key in moves) { play(false); go(moves[event.key]); }
    else return;
    event.preventDefault();
  }

  function withoutWebGL(error) {
    structure.stop();
    byId("frame").hidden = byId("options").hidden = true;
    byId("static").hidden = false;
    byId("why").textContent = `${xai.noWebGL(error)} Charts and tables work all the same.`;
  }

  // A canvas of WebGL prints as nothing, so a picture takes its place while printing.
  function printing(on) {
    const picture = document.getElementById("print-view");
    if (picture) picture.remove();
    const uri = on ? structure.png() : null;
    if (uri) byId("frame").prepend(create("img", {id: "print-view", src: uri, alt: "Structure of the current frame"}));
    byId("view").hidden = Boolean(uri);
  }

  wire();
  byId("held").textContent = data.heldNote;
  byId("held").hidden = !data.heldNote;
  drawChips();
  charts.start(go, add);
  tables.start(go, choose);
  try {
    window.viewer = structure.start(toggle);
  } catch (error) {
    withoutWebGL(error);
  }
  go(0);
  addEventListener("beforeprint", () => { play(false); printing(true); });
  addEventListener("afterprint", () => printing(false));
  Object.assign(xai, {go, choose});
  window.ready = true;
})();
