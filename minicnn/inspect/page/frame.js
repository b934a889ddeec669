// ---- the walkthrough ----------------------------------------------------------------------------------------------

function tour() {
  const steps = [], first = (test) => L.findIndex(test), kind = (k) => first((q) => q.kind === k);
  const add = (title, text, state) => { if (steps.length < 18) steps.push({ title, text, state: { l: 0, d: "f", v: "", e: null, c: null, k: 0, q: null, bug: 0, ...state } }); };
  const conv = kind("Conv2D"), bn = kind("BatchNormalization"), pool = first((q) => q.kind.endsWith("Pooling2D") && q.geo), drop = kind("Dropout"), flat = kind("Flatten"), relu = first((q) => q.act && q.act.name === "relu");
  const reluOwn = first((q) => q.act && q.act.name === "relu" && !weighty(L.indexOf(q))), denses = L.map((q, k) => k).filter((k) => L[k].kind === "Dense"), dense = denses.length ? denses[denses.length - 1] : -1, soft = first((q) => q.act && q.act.name === "softmax");
  const x = T(0, "x"), number = (l, what, name, choice) => { const t = T(l, name), index = chosenDefault(l, what, t, choice); return { index, v: t.get(...index) }; };
  const all = L.reduce((a, q) => a + q.size, 0);
  add("The picture is numbers", `This is image ${D.image} of a batch of ${N}: ${times(x.shape)} = ${x.size.toLocaleString("en")} numbers. The network has ${count(L.length, "layer")} and ${all.toLocaleString("en")} parameters. Everything on this page is from one step of this run.`, D.losses !== undefined ? { l: LOSS } : {});
  if (conv >= 0) {
    const n = number(conv, "y", "y", L[conv].out), K = T(conv, "p/w").size / T(conv, "p/w").shape[3];
    add("One number of a convolution", `Output ${at(n.index)} of ${L[conv].key} is ${fmt(n.v)}: a window of ${times(L[conv].geo.k)} pixels times a kernel, ${count(K, "product")}${T(conv, "p/b") ? ", plus a bias" : ""}.`, { l: conv, v: "one" });
    const y = T(conv, "y");
    add("All windows as one matrix", `im2col writes the ${y.shape[0] * y.shape[1]} windows as rows of ${K} numbers each. An input pixel is copied into up to ${L[conv].geo.k[0] * L[conv].geo.k[1]} of them.`, { l: conv, v: "im2col" });
    add("A convolution is a matrix product", `Row times column: ${K} products, added one by one, give ${fmt(explain(conv, "y", n.index)[0].value)} before the activation.`, { l: conv, v: "gemm" });
  }
  if (bn >= 0) { const c = chosenDefault(bn, "stats", T(bn, "mean"), null)[0]; add("Batch normalisation", `Channel ${c} has mean ${fmt(T(bn, "mean").get(c))} and variance ${fmt(T(bn, "var").get(c))} over ${(N * spots(T(bn, "x"))).toLocaleString("en")} numbers of ${count(N, "image")}.`, { l: bn, v: "stats", e: [c] }); }
  if (relu >= 0) add("Switch off what is negative", `ReLU: ${(share(T(relu, "y"), (v) => v === 0) * 100).toFixed(0)} % of the outputs of ${L[relu].key} are 0 for this image.`, { l: relu, v: weighty(relu) ? "one" : "" });
  if (pool >= 0) add("Fewer pixels", `${L[pool].key} makes ${times(T(pool, "y").shape)} of ${times(T(pool, "x").shape)}: of each window of ${times(L[pool].geo.k)}, one number stays.`, { l: pool });
  if (drop >= 0) add("Dropout", T(drop, "mask") ? `${L[drop].key} dropped ${((1 - share(T(drop, "mask"), (v) => v === 1)) * 100).toFixed(1)} % of its numbers in this step and multiplied the others by ${fmt(1 / (1 - L[drop].config.rate))}.` : "In evaluation dropout lets every number pass.", { l: drop });
  if (flat >= 0) add("A map becomes a row", `${L[flat].key} lays ${times(T(flat, "x").shape)} numbers out as one row of ${T(flat, "y").size}.`, { l: flat });
  if (dense >= 0) { const y = T(dense, "y"), k = D.label !== undefined && dense >= LOSS - 2 ? D.label : chosenDefault(dense, "y", y, L[dense].out).at(-1); const e = y.rank === 1 ? [k] : null; add("Everything comes together", e && T(dense, "z").get(k) !== undefined ? `Output ${k}${dense >= LOSS - 2 && D.classes ? ` (${className(k)})` : ""} of ${L[dense].key} adds up ${T(dense, "x").size.toLocaleString("en")} terms to ${fmt(T(dense, "z").get(k))}.` : `${L[dense].key} adds up all its inputs, weighted.`, { l: dense, e }); }
  if (soft >= 0 && T(soft, "y").rank === 1) { const y = rowOf(T(soft, "y"), [0]), best = y.indexOf(Math.max(...y)); add("From numbers to probabilities", `Softmax gives ${className(best)} the largest probability, ${fmt(y[best])}.`, { l: soft, e: [best] }); }
  if (D.losses === undefined) return steps;
  add("How wrong?", `The loss of this image is ${fmt(tensor(D.losses).get(D.image))}; the mean over the batch${num(D.penalty) ? " with the penalty" : ""} is ${fmt(num(D.loss))}.`, { l: LOSS });
  if (T(LOSS - 1, "y").rank === 1) { const k = D.label ?? 0, g = lossGradient(k); add("The way back begins", `The gradient by output ${className(k)} is ${g.text} = ${fmt(g.rec)}. ${g.rec < 0 ? "Minus: this number should grow." : "Plus: this number should shrink."}`, { l: LOSS, d: "b", e: [k] }); }
  if (dense >= 0 && T(dense, "g/w")) { const n = number(dense, "g:w", "g/w", null); add("The gradient of a weight", `dw${at(n.index)} of ${L[dense].key} is ${fmt(n.v)}: input times returning gradient, summed over ${count(N, "sample")}.`, { l: dense, d: "b", v: "g:w" }); }
  const deep = L.map((q, k) => k).filter((k) => L[k].kind === "Conv2D" && k > 0), back = deep.length ? deep[0] : conv;
  if (back >= 0) { const n = number(back, "dx", "dx", L[back].in); add("Back through the windows", `dx${at(n.index)} of ${L[back].key} is ${fmt(n.v)}: the sum of what ${count(convDx(back, n.index).length, "output pixel")} send back. Try the famous bug there.`, { l: back, d: "b", v: "dx" }); }
  else if (denses.length > 1) { const l = denses[1], n = number(l, "dx", "dx", L[l].in); add("Back to the layer before", `dx${at(n.index)} of ${L[l].key} is ${fmt(n.v)}: all outputs send their gradient back through their weights.`, { l, d: "b", v: "dx" }); }
  if (reluOwn >= 0 && conv < 0) add("Back through ReLU", `Where ${L[reluOwn].key} was switched off, no gradient passes.`, { l: reluOwn, d: "b" });
  if (conv >= 0 && T(conv, "g/w")) { const n = number(conv, "g:w", "g/w", null); add("A kernel weight learns from every pixel", `dw${at(n.index)} of ${L[conv].key} is ${fmt(n.v)}, from ${T(conv, "y").shape[0] * T(conv, "y").shape[1]} places in each of ${count(N, "image")}.`, { l: conv, d: "b", v: "g:w" }); }
  const learns = conv >= 0 ? conv : dense;
  if (learns >= 0 && T(learns, "u/w")) { const n = number(learns, "u:w", "u/w", null); add("The step", `${D.optimizer.class_name} moves w${at(n.index)} of ${L[learns].key} from ${fmt(T(learns, "p/w").get(...n.index))} to ${fmt(n.v)}.`, { l: learns, d: "u", v: "step" }); }
  if (steps.length < 17 && D.check.length) { const c = D.check[D.check.length - 1]; add("Is it right?", `A gradient check: the loss at w ± h, without any backward pass, against the gradient of ${L[c.layer].key} ${c.param}${at(c.index)}.`, { l: c.layer, d: "u", v: "check" }); }
  add("And again", `After this step the same batch has the loss ${fmt(num(D.loss_after))} instead of ${fmt(num(D.loss))}. Training is this, thousands of times.`, { l: LOSS, d: "u" });
  return steps;
}
function chosenDefault(l, what, t, choice) { const keep = S.e; S.e = null; const index = chosen(l, what, t, choice); S.e = keep; return index; }

// ---- the frame: header, walkthrough, strip, panel, footer ---------------------------------------------------------

let STEPS = [];
function walkTo(k) {
  if (k < 1 || k > STEPS.length) return;
  S = { ...S, ...STEPS[k - 1].state, w: k };
  writeHash();
  render();
}
function renderWalk() {
  const k = S.w, step = STEPS[k - 1];
  document.getElementById("walk").replaceChildren(h("div", { className: "walk" },
    h("div", { className: "words" }, h("h2", {}, step ? `${k}. ${step.title}` : "A walk through this step"), h("p", { "aria-live": "polite" }, step ? step.text : `${STEPS.length} stops in reading order, with this run's numbers. Keys: n for the next, p for the previous one.`)),
    h("div", { className: "walkbuttons" }, button("← Previous", () => walkTo(S.w - 1), { id: "prev", disabled: S.w <= 1 }), h("span", { className: "where" }, k ? `${k} of ${STEPS.length}` : `${STEPS.length} stops`), button(k ? "Next →" : "Start →", () => walkTo(S.w + 1), { id: "next", disabled: S.w >= STEPS.length, className: "main" })),
    h("div", { className: "dots", "aria-hidden": "true" }, STEPS.map((_, n) => h("i", { className: n < k ? "done" : "" })))));
}
function receptive() {
  // How many input pixels an output pixel can see, and how far apart neighbours are.
  let size = 1, jump = 1, flat = false;
  return L.map((q) => {
    if (q.geo && !flat) { size += (q.geo.k[0] - 1) * q.geo.d[0] * jump; jump *= q.geo.s[0]; return `${size}×${size}`; }
    if (["Flatten", "Dense", "GlobalAveragePooling2D"].includes(q.kind)) flat = true;
    return flat ? "all" : `${size}×${size}`;
  });
}
const FIELD = receptive();
function stripThumb(l, d) {
  if (d === "u") return changeThumb(l);
  const t = T(l, d === "f" ? "y" : "dx");
  if (!t) return null;
  const choice = (d === "b" ? L[l].in : L[l].out) || [...Array(t.shape[t.rank - 1]).keys()];
  return thumb(t, choice.slice(0, 4), 64);
}
function changeThumb(l) {
  // What the step changed: four kernels, a corner of a dense layer's weights, or the numbers of a channel each.
  const name = params(l)[0], u = name && T(l, "u/" + name), w = u && T(l, "p/" + name);
  if (!u) return h("span", { className: "nothing", "aria-hidden": "true" }, "–");
  const at = u.parts[0].at, k = (axis, i) => (at[axis] ? at[axis][i] : i), sizes = u.parts[0].sizes, change = (...index) => { const a = u.get(...index), b = w.get(...index); return a === undefined || b === undefined ? undefined : a - b; };
  if (u.rank === 4) return thumb({ rank: 3, shape: [sizes[0], sizes[1]], get: (i, j, o) => change(i, j, k(2, 0), k(3, o)), largest: () => 1 }, [...Array(Math.min(4, sizes[3])).keys()], 64);
  if (u.rank === 2) return thumb({ rank: 3, shape: [Math.min(32, sizes[0]), Math.min(32, sizes[1])], get: (i, j) => change(k(0, i), k(1, j)), largest: () => 1 }, [0], 64);
  const n = Math.min(64, sizes[0]), list = [...Array(n).keys()].map((i) => change(k(0, i)));
  return thumb({ rank: 1, size: n, at: (f) => list[f], largest: () => Math.max(...list.map(Math.abs)) }, [0], 64);
}
function ratioText(l) {
  let move = 0, size = 0;
  for (const n of params(l)) { const u = T(l, "u/" + n), w = T(l, "p/" + n); if (u && n !== "b" && n !== "beta") for (const index of sample(u, 300)) { const v = w.get(...index); move += (u.get(...index) - v) ** 2; size += v * v; } }
  return size ? `Δw/w ${fmt(Number(Math.sqrt(move / size).toPrecision(2)))}` : "no parameters";
}
const breakable = (name) => name.split(/(?<=[_/])/).flatMap((part, k) => (k ? [h("wbr"), part] : [part]));
let stripFor = "";
function renderStrip() {
  const host = document.getElementById("net");
  if (stripFor === S.d + S.l) return;
  const scrolled = host.querySelector(".strip")?.scrollLeft || 0;
  stripFor = S.d + S.l;
  const arrow = (shape) => h("li", { className: "edge" }, h("span", { className: "shape" }, shape), h("span", { "aria-hidden": "true" }, S.d === "b" ? "←" : "→"));
  const items = [h("li", {}, h("div", { className: "card still" }, photo(64), h("b", {}, "input"), h("span", {}, `image ${D.image} of ${N}`)))];
  L.forEach((q, l) => {
    items.push(arrow(times(T(l, "x").shape)));
    items.push(h("li", {}, h("button", { type: "button", className: "card", "data-fid": "layer" + l, "aria-current": S.l === l ? "true" : undefined, onclick: () => { keepFocus = "layer" + l; go({ l, w: 0 }); } }, stripThumb(l, S.d), h("b", {}, breakable(q.key)), h("span", {}, q.kind + (q.act && weighty(l) && q.act.name !== "linear" ? ` + ${q.act.name}` : "")), h("span", {}, S.d === "u" ? ratioText(l) : q.size ? `${q.size.toLocaleString("en")} params` : "no parameters"), h("span", {}, `sees ${FIELD[l]}`))));
  });
  if (LOSS) items.push(arrow(times(T(LOSS - 1, "y").shape)));
  if (D.losses !== undefined) items.push(h("li", {}, h("button", { type: "button", className: "card", "data-fid": "layer" + LOSS, "aria-current": S.l === LOSS ? "true" : undefined, onclick: () => { keepFocus = "layer" + LOSS; go({ l: LOSS, w: 0 }); } }, h("span", { className: "big" }, fmt(Number(num(D.loss).toPrecision(3)))), h("b", {}, "loss"), h("span", {}, D.loss_function.class_name.replace(/([a-z])([A-Z])/g, "$1 $2")), h("span", {}, D.label === undefined ? "" : className(D.label)))));
  host.replaceChildren(
    h("div", { className: "bar1" }, h("h2", {}, "The network"), h("div", { className: "switch", role: "group", "aria-label": "Direction" }, Object.entries(DIRECTIONS).map(([d, text]) => h("button", { type: "button", "data-fid": "dir" + d, "aria-pressed": String(S.d === d), disabled: d !== "f" && !backwardThere, onclick: () => { keepFocus = "dir" + d; go({ d, w: 0 }); } }, text))), h("span", { className: "hint" }, { f: "Feature maps: what each layer makes of the image.", b: "Gradients: how the loss changes with each number.", u: "What the step changed (kernels, after minus before)." }[S.d] + (backwardThere ? "" : " Traced without targets: forward only."))),
    h("ol", { className: "strip", tabIndex: 0, "aria-label": "Layers" }, items));
  const strip = host.querySelector(".strip"), card = host.querySelector('[aria-current="true"]');
  strip.scrollLeft = scrolled;
  if (!card) return;
  const left = card.getBoundingClientRect().left - strip.getBoundingClientRect().left;
  if (left < 60 || left > strip.clientWidth - 190) strip.scrollLeft += left - strip.clientWidth / 2 + 66;
}
function renderPanel() {
  const l = S.l, d = S.d, v = viewNow(), views = viewsOf(l, d), key = l === LOSS ? "loss" : L[l].key, kind = l === LOSS ? D.loss_function.class_name : L[l].kind;
  const body = (d !== "f" && !backwardThere) ? [p("There is no way back in this trace: it was made without targets.")] : panelOf(l, d, v);
  document.getElementById("panel").replaceChildren(
    h("div", { className: "bar1" }, h("h2", {}, key), h("span", { className: "kind" }, `${kind} · ${DIRECTIONS[d].toLowerCase()}`), views.length > 1 ? h("div", { className: "switch", role: "group", "aria-label": "View" }, views.map(([name, text]) => button(text, () => go({ v: name, l, d }), { id: "view" + name, pressed: name === v }))) : h("span", { className: "hint" }, views[0][1])),
    h("div", { className: "body" }, body.flat(9).filter(Boolean)));
}
function render() {
  renderStrip();
  renderPanel();
  renderWalk();
  if (keepFocus) { const node = [...document.querySelectorAll("[data-fid]")].find((q) => q.dataset.fid === keepFocus && !q.disabled); if (node && document.activeElement !== node) node.focus({ preventScroll: true }); keepFocus = null; }
}
function renderHeader() {
  const o = D.optimizer, theme = () => { const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches; root.dataset.theme = dark ? "light" : "dark"; };
  document.getElementById("top").replaceChildren(
    h("div", {}, h("h1", {}, "Inside one training step"), h("p", { className: "sub" }, [`model ${D.model}`, `image ${D.image} of a batch of ${N}`, D.training ? "training" : "evaluation", o ? `${o.class_name}, learning rate ${fmt(num(o.learning_rate))}, step ${o.iterations + 1}` : "", D.losses !== undefined ? `loss ${fmt(num(D.loss))} → ${fmt(num(D.loss_after))}` : "forward only"].filter(Boolean).join(" · "))),
    h("div", { className: "tools" }, h("details", { className: "keys" }, h("summary", {}, "Keys"), h("ul", {}, [["n, p", "next and previous stop of the walk"], ["[ and ]", "layer before and after"], ["f, b, u", "forward, backward, update"], ["arrow keys", "in a map: the number beside"], ["Tab", "from one control to the next"]].map(([key, text]) => h("li", {}, h("kbd", {}, key), " " + text)))), button("Light / dark", theme, { id: "theme" })));
}
function renderFooter() {
  const t = D.trim, sentences = [`This file holds image ${D.image} of the batch, in full precision, and of the other images what each adds to sums over the batch${N > D.rows.length ? " (all others as one number)" : ""}.`];
  if (t.channels === null) sentences.push("Nothing else is left out: all weights, gradients and optimizer arrays are here.");
  else {
    sentences.push(`To stay below 4 MB it is trimmed (level ${D.level}). Of arrays with more than 4,096 weights, those of ${t.channels} channels (${2 * t.channels} units of a dense layer) before and after each layer are here: all weights into the chosen outputs and out of the chosen inputs, and gradient, optimizer arrays and updated weights between the two. The strongest channels for this image were chosen.`);
    const windows = (what, size) => size !== null && sentences.push(`${what} maps larger than ${size} × ${size} are here in a window of that size in the middle, with all channels${t.maps ? "; the chosen channels are whole" : ""}.`);
    windows("Feature", t.forward);
    windows("Gradient", t.backward);
    sentences.push("What is missing is grey in the maps; a number whose operands are missing says so.");
  }
  sentences.push("Computed in Python when the page was written: each image's share in sums over the batch, the two losses of each gradient check, the factors of weight constraints. All else is computed here and compared with the recorded numbers.");
  const box = h("div", { id: "selftest", "aria-live": "polite" });
  document.getElementById("foot").replaceChildren(h("h2", {}, "What is in this file"), h("p", {}, sentences.join(" ")), h("p", {}, "Colour: white is zero, blue above, orange (with a minus) below; each map has its own scale, written under it. Nothing is loaded from anywhere."), button("Check every layer (self-test)", () => showSelftest(), { id: "selftestbutton" }), box);
}
function showSelftest() {
  const results = selftest(), checks = results.reduce((a, r) => a + r.checks, 0), bad = results.reduce((a, r) => a + r.bad, 0), skipped = results.reduce((a, r) => a + r.skipped, 0);
  document.title = bad || !checks ? `selftest: FAILED ${bad} of ${checks} checks` : `selftest: ok ${checks} checks`;
  document.getElementById("selftest").replaceChildren(h("div", {},
    h("p", { className: bad ? "badge bad" : "badge ok" }, bad ? `✗ ${bad} of ${checks} numbers differ` : `✓ ${checks.toLocaleString("en")} numbers recomputed, all equal to the recorded ones within rounding (2·10⁻⁵ of what was added up)`),
    skipped ? p(`${skipped.toLocaleString("en")} more were left out, because their operands are not in this file.`) : null,
    table(["layer", "direction", "checked", "differ", "left out", "first difference"], results.map((r) => [r.layer, r.what, r.checks, r.bad, r.skipped, r.first || ""]))));
}
function keys(e) {
  if (e.altKey || e.ctrlKey || e.metaKey || ["INPUT", "SELECT", "TEXTAREA"].includes(e.target.tagName)) return;
  const act = { n: () => walkTo(S.w + 1), p: () => walkTo(S.w - 1), f: () => go({ d: "f", w: 0 }), b: () => backwardThere && go({ d: "b", w: 0 }), u: () => backwardThere && go({ d: "u", w: 0 }), "[": () => S.l > 0 && go({ l: S.l - 1, w: 0 }), "]": () => S.l < (D.losses === undefined ? LOSS - 1 : LOSS) && go({ l: S.l + 1, w: 0 }) }[e.key];
  if (act) { e.preventDefault(); act(); }
}

const wantsTest = location.hash === "#selftest";
renderHeader();
renderFooter();
STEPS = tour();
S = wantsTest || !location.hash ? { ...S, l: D.losses === undefined ? 0 : LOSS } : readHash();
render();
document.addEventListener("keydown", keys);
document.getElementById("skip").addEventListener("click", (e) => { e.preventDefault(); document.getElementById("panel").focus(); });
window.addEventListener("hashchange", () => { if (location.hash === "#selftest") showSelftest(); else { S = readHash(); render(); } });
let timer = 0;
window.addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(renderPanel, 150); });
if (wantsTest) showSelftest();
