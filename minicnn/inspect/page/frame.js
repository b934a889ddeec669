// The frame: header, walk, strip of layers, panel, footer, keys.

let paused = 0; // the stop at which the walk was left
function walkTo(k) {
  if (k < 1 || k > STOPS.length) return;
  paused = k;
  S = { ...STOPS[k - 1].state, w: k };
  writeHash();
  render();
  window.scrollTo(0, 0);
}
function renderWalk() {
  const k = S.w, stop = STOPS[k - 1], next = k || paused;
  const text = stop ? stop.say(S.e) : `${count(STOPS.length, "stop")}, with this run's numbers. Keys: n for the ` +
    `next, p for the previous one.`;
  const label = k ? "Next →" : paused ? `On to stop ${Math.min(paused + 1, STOPS.length)} →` : "Start →";
  const done = STOPS.map((_, n) => h("i", { className: n < next ? "done" : "" }));
  document.getElementById("walk").replaceChildren(h("div", { className: "walk" },
    h("div", { className: "words" }, h("h2", {}, stop ? `${k}. ${stop.title}` : "A walk through this step"),
      h("p", { "aria-live": "polite" }, text)),
    h("div", { className: "walkbuttons" }, button("← Previous", () => walkTo(S.w - 1),
      { id: "prev", disabled: S.w <= 1 }),
      h("span", { className: "where" }, k ? `${k} of ${STOPS.length}` : count(STOPS.length, "stop")),
      button(label, () => walkTo(Math.min((S.w || paused) + 1, STOPS.length)),
        { id: "next", disabled: S.w >= STOPS.length, className: "main" })),
    h("div", { className: "dots", "aria-hidden": "true" }, done)));
}

// ---- the strip of layers ------------------------------------------------------------------------------------------

const THUMB = 44;
function stripThumb(l, d) {
  if (d === "u") return changeThumb(l);
  const t = T(l, d === "f" ? "y" : merges(l) ? "dx/0" : "dx");
  if (!t) return null;
  const choice = (d === "b" ? L[l].in : L[l].out) || range(t.shape[t.rank - 1]);
  return thumb(t, choice.slice(0, 4), THUMB);
}
// What the step changed: four kernels, a corner of a dense layer's weights, or the numbers of a channel each.
function changeThumb(l) {
  const name = params(l)[0], u = name && T(l, "u/" + name), w = u && T(l, "p/" + name);
  if (!u) return h("span", { className: "nothing", "aria-hidden": "true" }, "–");
  const { at, sizes } = u.parts[0], k = (axis, i) => (at[axis] ? at[axis][i] : i);
  const change = (...index) => {
    const a = u.get(...index), b = w.get(...index);
    return a === undefined || b === undefined ? undefined : a - b;
  };
  const map = (H, W, get, list) => thumb({ rank: 3, shape: [H, W], get }, list, THUMB);
  if (u.rank === 4) return map(sizes[0], sizes[1], (i, j, o) => change(i, j, k(2, 0), k(3, o)),
    range(Math.min(4, sizes[3])));
  if (u.rank === 2) return map(Math.min(32, sizes[0]), Math.min(32, sizes[1]), (i, j) => change(k(0, i), k(1, j)), [0]);
  const list = range(Math.min(64, sizes[0])).map((i) => change(k(0, i)));
  return thumb({ rank: 1, size: list.length, at: (f) => list[f], largest: () => Math.max(...list.map(Math.abs)) },
    [0], THUMB);
}
function cardText(l) {
  const q = L[l], field = fieldSize(l), names = params(l).filter((n) => n !== "b" && n !== "beta" && T(l, "u/" + n));
  const kind = q.kind + (weighty(l) && activation(l) !== "linear" ? ` + ${activation(l)}` : "");
  const size = S.d !== "u" ? (q.size ? count(q.size, "parameter") : "no parameters")
    : names.length ? `Δw/w ${fmt(Number(moved(l, names, 300).toPrecision(2)))}` : "no parameters";
  const branch = q.inputs.length > 1 || q.inputs[0] !== l - 1 ? `reads ${q.inputs.map(keyOf).join(", ")}` : "";
  return [branch && breakable(branch), breakable(kind), size, field ? `receptive field ${times(field)}` : "sees all"];
}
// Arcs over the cards: from each layer to those that read it and do not stand beside it.
function drawSkips(strip) {
  const edges = L.flatMap((q, l) => q.inputs.filter((source) => source !== l - 1).map((source) => [source, l])),
    ends = [];
  if (!edges.length) return;
  const middle = (l) => {
    const node = strip.querySelector(`[data-fid="layer${l}"]`).parentNode;
    return node.offsetLeft - strip.offsetLeft + node.offsetWidth / 2;
  };
  const rows = edges.map(([source, l]) => { // the lowest row that is free there
    let level = ends.findIndex((end) => end <= source);
    if (level < 0) level = ends.length;
    ends[level] = l;
    return level;
  });
  strip.style.position = "relative";
  strip.style.paddingTop = `${10 * ends.length + 8}px`;
  edges.forEach(([source, l], n) => {
    const top = 10 * (ends.length - 1 - rows[n]) + 4, left = middle(source) + 8, right = middle(l) - 8;
    strip.append(h("li", { className: "skip-edge", "aria-hidden": "true", css: { left: `${left}px`, top: `${top}px`,
      width: `${right - left}px`, height: `${10 * (rows[n] + 1) + 2}px` } }));
  });
}
const breakable = (name) => name.split(/(?<=[_/])|(?<=[a-z])(?=[A-Z])/).flatMap((part, k) =>
  (k ? [h("wbr"), part] : [part]));
function card(l, picture, name, lines) {
  const choose = () => {
    keepFocus = "layer" + l;
    go({ l, d: l === INPUT ? "f" : S.d, w: 0 });
  };
  return h("li", {}, h("button", { type: "button", className: "card", "data-fid": "layer" + l,
    "aria-current": S.l === l ? "true" : undefined, onclick: choose },
    picture, h("b", {}, name), lines.filter(Boolean).map((text) => h("span", {}, text))));
}
let stripFor = "";
function renderStrip() {
  const host = document.getElementById("net");
  if (stripFor === S.d + S.l) return;
  const scrolled = host.querySelector(".strip")?.scrollLeft || 0;
  stripFor = S.d + S.l;
  const arrow = (shape) => h("li", { className: "edge" }, h("span", { className: "shape" }, times(shape)),
    h("span", { "aria-hidden": "true" }, S.d === "b" ? "←" : "→"));
  const gap = h("li", { className: "edge" }); // to a layer that does not read the one before it
  const items = [card(INPUT, photo(THUMB), "input", [`image ${D.image} of ${N}`])];
  const before = (l) => L[l].inputs.indexOf(l - 1);
  L.forEach((q, l) => items.push(before(l) < 0 ? gap.cloneNode() : arrow(read(l, before(l)).shape),
    card(l, stripThumb(l, S.d), breakable(q.key), cardText(l))));
  if (LOSS) items.push(arrow(T(LOSS - 1, "y").shape));
  if (D.losses !== undefined) {
    const kind = D.loss_function.class_name.replace(/([a-z])([A-Z])/g, "$1 $2"),
      value = h("span", { className: "big" }, fmt(Number(num(D.loss).toPrecision(3))));
    items.push(card(LOSS, value, "loss", [kind, D.label === undefined ? "" : className(D.label)]));
  }
  const legend = { f: "What each layer makes of the image.", b: "How the loss changes with each number.",
    u: "What the step changed (after minus before)." }[S.d];
  const turn = (d, text) => button(text, () => go({ l: Math.max(S.l, 0), d, w: 0 }),
    { id: "dir" + d, pressed: S.d === d, disabled: d !== "f" && !hasBackward });
  host.replaceChildren(
    h("div", { className: "bar1" }, h("h2", {}, "The network"),
      h("div", { className: "switch", role: "group", "aria-label": "Direction" },
      Object.entries(DIRECTIONS).map(([d, text]) => turn(d, text))),
      h("span", { className: "hint" }, legend + (hasBackward ? "" : " Traced without targets: forward only."))),
    h("ol", { className: "strip", tabIndex: 0, "aria-label": "Layers" }, items));
  drawSkips(host.querySelector(".strip"));
  const strip = host.querySelector(".strip"), now = host.querySelector('[aria-current="true"]');
  strip.scrollLeft = scrolled;
  if (!now) return;
  const left = now.getBoundingClientRect().left - strip.getBoundingClientRect().left;
  if (left < 60 || left > strip.clientWidth - 190) strip.scrollLeft += left - strip.clientWidth / 2 + 66;
}

// ---- panel, header, footer ----------------------------------------------------------------------------------------

function renderPanel() {
  const { l, d } = S, v = viewNow(), views = viewsOf(l, d);
  const kind = l === INPUT ? "the picture" : l === LOSS ? D.loss_function.class_name : L[l].kind;
  const body = d !== "f" && !hasBackward ? [p("There is no backward pass in this trace: it was made without " +
    "targets.")] : panelOf(l, d, v);
  const choose = ([name, text]) => button(text, () => go({ v: name, l, d }),
    { id: "view" + name, pressed: name === v });
  document.getElementById("panel").replaceChildren(
    h("div", { className: "bar1" }, h("h2", {}, keyOf(l)),
      h("span", { className: "kind" }, `${kind} · ${DIRECTIONS[d].toLowerCase()}`),
      views.length > 1 ? h("div", { className: "switch", role: "group", "aria-label": "View" }, views.map(choose))
        : h("span", { className: "hint" }, views[0][1])),
    h("div", { className: "body" }, body.flat(9).filter(Boolean)));
  const switches = document.querySelector("#panel .switch"), pressed = switches?.querySelector('[aria-pressed="true"]');
  if (pressed) switches.scrollLeft = pressed.offsetLeft - switches.offsetLeft - 40;
}
function render() {
  renderStrip();
  renderPanel();
  renderWalk();
  if (!keepFocus) return;
  const node = [...document.querySelectorAll("[data-fid]")].find((q) => q.dataset.fid === keepFocus && !q.disabled);
  if (node && document.activeElement !== node) node.focus({ preventScroll: true });
  keepFocus = null;
}
function renderHeader() {
  const o = D.optimizer, root = document.documentElement;
  const theme = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };
  const facts = [`model ${D.model}`, `image ${D.image} of a batch of ${N}`, D.training ? "training" : "evaluation",
    o ? `${o.class_name}, learning rate ${fmt(num(o.learning_rate))}, step ${o.iterations + 1}` : "",
    D.losses !== undefined ? `loss ${fmt(num(D.loss))} → ${fmt(num(D.loss_after))}` : "forward only"];
  const keyList = [["n, p", "next and previous stop of the walk"], ["[ and ]", "layer before and after"],
    ["f, b, u", "forward, backward, update"],
    ["arrow keys", "in a map: the number beside"], ["Tab", "from one control to the next"]];
  document.getElementById("top").replaceChildren(
    h("div", {}, h("h1", {}, "Inside one training step"),
      h("p", { className: "sub" }, facts.filter(Boolean).join(" · "))),
    h("div", { className: "tools" }, h("details", { className: "keys" }, h("summary", {}, "Keys"),
      h("ul", {}, keyList.map(([key, text]) => h("li", {}, h("kbd", {}, key), " " + text)))),
        button("Light / dark", theme, { id: "theme" })));
}
function renderFooter() {
  const t = D.trim, others = N > 1 ? `, and of the other images what each adds to sums over the ` +
    `batch${N > D.rows.length ? " (all others as one number)" : ""}` : "";
  const sentences = [`This file holds image ${D.image} of the batch, in full precision${others}.`];
  if (t.channels === null) sentences.push("Nothing else is left out: all weights, gradients and optimizer arrays are " +
    "here.");
  else {
    sentences.push(`To stay below 4 MB it is trimmed (level ${D.level}). Of arrays with more than 4,096 weights, ` +
      `those of ${count(t.channels, "channel")} ` +
      `(${count(2 * t.channels, "unit")} of a dense layer) before and after each layer are here: all weights into ` +
        `the chosen outputs and out of the chosen inputs, ` +
      "and gradient, optimizer arrays and updated weights between the two. The strongest channels for this image " +
        "were chosen.");
    const windows = (what, size) => size !== null && sentences.push(`${what} maps larger than ${size} × ${size} are ` +
      `here in a window of that size in the middle, ` +
      `with all channels${t.maps ? "; the chosen channels are whole" : ""}.`);
    windows("Feature", t.forward);
    windows("Gradient", t.backward);
    sentences.push("What is missing is grey in the maps; a number whose operands are missing says so.");
  }
  sentences.push("Computed in Python when the page was written: each image's share in sums over the batch, the two " +
    "losses of each gradient check, the factors of weight " +
    "constraints. All else is computed here and compared with the recorded numbers.");
  const box = h("div", { id: "selftest", "aria-live": "polite" });
  document.getElementById("foot").replaceChildren(h("h2", {}, "What is in this file"), p(sentences.join(" ")),
    p("Colour: white is zero, blue above, orange (with a minus) below; each map has its own scale, written under it. " +
      "Nothing is loaded from anywhere."),
    button("Check every layer (self-test)", () => showSelftest(), { id: "selftestbutton" }), box);
}
function showSelftest() {
  const results = selftest(), sum = (key) => results.reduce((a, r) => a + r[key], 0), checks = sum("checks"),
    bad = sum("bad"), skipped = sum("skipped");
  document.title = bad || !checks ? `selftest: FAILED ${bad} of ${checks} checks` : `selftest: ok ${checks} checks`;
  const verdict = bad ? `✗ ${bad} of ${checks} numbers differ`
    : `✓ ${count(checks, "number")} recomputed, all equal to the recorded ones within rounding (2·10⁻⁵ of what was ` +
      `added up)`;
  document.getElementById("selftest").replaceChildren(h("div", {},
    h("p", { className: bad ? "badge bad" : "badge ok" }, verdict),
    skipped ? p(`${whole(skipped)} more were left out, because their operands are not in this file.`) : null,
    table(["layer", "direction", "checked", "differ", "left out", "first difference"],
      results.map((r) => [r.layer, r.what, r.checks, r.bad, r.skipped, r.first || ""]))));
}
function keys(e) {
  if (e.altKey || e.ctrlKey || e.metaKey || ["INPUT", "SELECT", "TEXTAREA"].includes(e.target.tagName)) return;
  const turn = (d) => () => (d === "f" || hasBackward) && go({ l: Math.max(S.l, 0), d, w: 0 });
  const act = {
    n: () => walkTo((S.w || paused) + 1), p: () => walkTo((S.w || paused + 1) - 1), f: turn("f"), b: turn("b"),
      u: turn("u"),
    "[": () => S.l > INPUT && go({ l: S.l - 1, d: S.l === 0 ? "f" : S.d, w: 0 }),
      "]": () => S.l < lastLayer() && go({ l: S.l + 1, w: 0 }),
  }[e.key];
  if (!act) return;
  e.preventDefault();
  act();
}

const wantsTest = location.hash === "#selftest";
renderHeader();
renderFooter();
STOPS = walkStops();
S = wantsTest || !location.hash ? { ...NOWHERE, l: D.losses === undefined ? 0 : LOSS } : readHash();
paused = S.w;
render();
document.addEventListener("keydown", keys);
document.getElementById("skip").addEventListener("click", (e) => {
  e.preventDefault();
  document.getElementById("panel").focus();
});
window.addEventListener("hashchange", () => {
  if (location.hash === "#selftest") return showSelftest();
  S = readHash();
  return render();
});
let timer = 0;
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(renderPanel, 150);
});
if (wantsTest) showSelftest();
