// ---- small things for the views -----------------------------------------------------------------------------------

const UP = "⁰¹²³⁴⁵⁶⁷⁸⁹";
function fmt(v) {
  if (v === undefined || v === null) return "?";
  if (typeof v !== "number") v = Number(v);
  if (Number.isNaN(v)) return "NaN";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "−∞";
  if (v === 0) return "0";
  const a = Math.abs(v), sign = v < 0 ? "−" : "";
  if (Number.isInteger(v) && a < 1e6) return sign + a;
  if (a >= 1e-3 && a < 1e5) return sign + Number(a.toPrecision(4)).toString();
  const [m, e] = a.toExponential(2).split("e"), n = String(Math.abs(Number(e)));
  return `${sign}${Number(m)}·10${Number(e) < 0 ? "⁻" : ""}${[...n].map((d) => UP[d]).join("")}`;
}
const signed = (v) => (v < 0 ? `− ${bracket(-v)}` : `+ ${bracket(v)}`);
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || one + "s"}`;
const times = (shape) => shape.join("×");
const className = (k) => (D.classes && D.classes[k] !== undefined ? D.classes[k] : `class ${k}`);

function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === undefined || value === false || value === null) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "css") Object.assign(node.style, value);
    else if (key in node && !key.includes("-") && key !== "list") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}
const p = (...children) => h("p", {}, ...children);
const b = (text) => h("b", {}, text);
const code = (text) => h("code", {}, text);

// Colour: white is zero; blue above, orange below. The root makes small numbers visible; the legend has it, too.
const POS = [24, 93, 170], NEG = [205, 84, 27], SHAPE = 0.7;
function shade(v, peak) {
  const t = peak > 0 ? Math.min(1, Math.abs(v) / peak) ** SHAPE : 0, end = v < 0 ? NEG : POS;
  return { t, css: `rgb(${end.map((e) => Math.round(255 + (e - 255) * t)).join(",")})` };
}
const ratio = () => Math.min(3, window.devicePixelRatio || 1);
function canvas(width, height, draw, props) {
  const node = h("canvas", { width: Math.max(1, Math.round(width * ratio())), height: Math.max(1, Math.round(height * ratio())), ...props });
  node.style.width = width + "px";
  node.style.height = height + "px";
  const g = node.getContext("2d");
  g.scale(ratio(), ratio());
  draw(g);
  return node;
}
const ACCENT = "#0b8f6f", SECOND = "#a020a0";

function legend(peak, note) {
  const draw = (g) => {
    for (let i = 0; i < 120; i++) {
      const v = (i - 59.5) / 59.5;
      g.fillStyle = shade(v, 1).css; g.fillRect(i, 0, 1, 10);
    }
    g.fillStyle = "rgba(0,0,0,.55)";
    for (let i = 4; i < 56; i += 8) g.fillRect(i, 4.5, 4, 1);
  };
  return h("div", { className: "legend" }, h("span", {}, fmt(-peak)), canvas(120, 10, draw, { role: "img", "aria-label": `scale from ${fmt(-peak)} (orange, with a minus) over 0 (white) to ${fmt(peak)} (blue)` }), h("span", {}, fmt(peak)), h("span", { className: "zero" }, "0 is white" + (note ? "; " + note : "")));
}

// A map of numbers. o: {id, title, H, W, get, cur, boxes, pick, pads, peak, most, ghost, label, dead}
function mapFigure(o) {
  const pads = o.pads || [[0, 0], [0, 0]], [[top, bottom], [left, right]] = pads;
  const rows = o.H + top + bottom, cols = o.W + left + right;
  const most = Math.min(o.most || 330, Math.max(200, document.documentElement.clientWidth - 72));
  const s = Math.max(1, Math.min(o.big || 40, Math.floor(Math.min(most / cols, Math.max(420, o.most || 0) / rows)) || 1));
  const peak = o.peak ?? peakOf(o.H, o.W, o.get);
  const draw = (g) => {
    g.fillStyle = "#fff"; g.fillRect(0, 0, cols * s, rows * s);
    let fits = s >= 32; // numbers are written into the cells only if all have room
    if (fits) { g.font = `${Math.min(12, s / 3.4)}px system-ui, sans-serif`; for (let i = 0; i < o.H; i++) for (let j = 0; j < o.W; j++) { const v = o.get(i, j); if (typeof v === "number" && g.measureText(tiny(v)).width > s - 3) fits = false; } }
    for (let r = 0; r < rows; r++) for (let q = 0; q < cols; q++) {
      const i = r - top, j = q - left, outside = i < 0 || j < 0 || i >= o.H || j >= o.W, v = outside ? 0 : o.get(i, j);
      const X = q * s, Y = r * s;
      if (outside) { g.fillStyle = "#e9e9ee"; g.fillRect(X, Y, s, s); if (s >= 8) { g.fillStyle = "#9a9aa6"; g.fillRect(X + s / 2 - 1, Y + s / 2 - 1, 2, 2); } continue; }
      if (v === undefined) { g.fillStyle = "#d5d7dc"; g.fillRect(X, Y, s, s); g.fillStyle = "#b9bcc4"; if (s >= 3) g.fillRect(X, Y + Math.floor(s / 2), s, 1); continue; }
      if (v === null) continue;
      const c = Number.isFinite(v) ? shade(v, peak) : { t: 1, css: "#000" };
      g.fillStyle = c.css; g.fillRect(X, Y, s, s);
      if (s >= 32) {
        g.fillStyle = c.t > 0.6 ? "#fff" : "#16181c"; g.font = `${Math.min(12, s / 3.4)}px system-ui, sans-serif`; g.textAlign = "center"; g.textBaseline = "middle";
        if (fits) g.fillText(tiny(v), X + s / 2, Y + s / 2);
        else if (v < 0) g.fillText("−", X + s / 2, Y + s / 2);
      } else if (v < 0 && s >= 6 && c.t > 0.12) { g.fillStyle = c.t > 0.6 ? "rgba(255,255,255,.85)" : "rgba(120,40,0,.75)"; g.fillRect(X + s * 0.28, Y + s / 2 - 0.6, s * 0.44, Math.max(1.2, s / 12)); }
      if (o.dead && o.dead(i, j)) { g.fillStyle = "rgba(90,94,102,.32)"; g.fillRect(X, Y, s, s); g.strokeStyle = "rgba(60,60,70,.6)"; g.lineWidth = 1; g.beginPath(); g.moveTo(X, Y + s); g.lineTo(X + s, Y); g.stroke(); }
    }
    if (s >= 14) { g.strokeStyle = "rgba(0,0,0,.09)"; g.lineWidth = 1; for (let r = 0; r <= rows; r++) { g.beginPath(); g.moveTo(0, r * s); g.lineTo(cols * s, r * s); g.stroke(); } for (let q = 0; q <= cols; q++) { g.beginPath(); g.moveTo(q * s, 0); g.lineTo(q * s, rows * s); g.stroke(); } }
    if (top || left || bottom || right) { g.strokeStyle = "#8a8d96"; g.lineWidth = 1; g.strokeRect(left * s + 0.5, top * s + 0.5, o.W * s - 1, o.H * s - 1); }
    for (const box of [...(o.boxes || []), ...(o.cur ? [{ i: o.cur[0], j: o.cur[1], strong: true }] : [])]) {
      const X = (box.j + left) * s, Y = (box.i + top) * s, w = (box.w || 1) * s, hh = (box.h || 1) * s;
      g.lineWidth = 4; g.strokeStyle = "rgba(255,255,255,.9)"; g.strokeRect(X, Y, w, hh);
      g.lineWidth = box.thin ? 1.4 : 2.2; g.setLineDash(box.dash ? [4, 3] : []); g.strokeStyle = box.color || ACCENT; g.strokeRect(X, Y, w, hh); g.setLineDash([]);
    }
  };
  const value = o.cur ? `${o.cur.join(", ")}: ${fmt(o.get(...o.cur))}` : "";
  const node = canvas(cols * s, rows * s, draw, {
    role: o.pick ? "application" : "img", tabIndex: o.pick ? 0 : -1, "data-fid": o.id, "aria-roledescription": "map of numbers",
    "aria-label": `${o.title}, ${o.H} by ${o.W}. ${value} ${o.pick ? "Arrow keys choose another number." : ""}`,
  });
  if (o.pick) {
    node.addEventListener("click", (e) => {
      const box = node.getBoundingClientRect(), i = Math.floor((e.clientY - box.top) / box.height * rows) - top, j = Math.floor((e.clientX - box.left) / box.width * cols) - left;
      if (i >= 0 && j >= 0 && i < o.H && j < o.W && o.get(i, j) !== null) { keepFocus = o.id; o.pick(i, j); }
    });
    node.addEventListener("keydown", (e) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
      if (!move || e.altKey || e.ctrlKey || e.metaKey) return;
      e.preventDefault();
      const [i, j] = o.cur || [0, 0], a = Math.min(o.H - 1, Math.max(0, i + move[0])), c = Math.min(o.W - 1, Math.max(0, j + move[1]));
      if (o.get(a, c) !== null) { keepFocus = o.id; o.pick(a, c); }
    });
  }
  return h("figure", { className: "map", css: { maxWidth: Math.max(cols * s, 250) + 2 + "px" } }, h("figcaption", {}, o.title), node, legend(peak, o.note), o.below ? h("p", { className: "hint" }, o.below) : null);
}
const tiny = (v) => (v === 0 ? "0" : Math.abs(v) >= 100 || Math.abs(v) < 0.001 ? fmt(v).replace("·10", "e").replace(/[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]/g, (c) => (c === "⁻" ? "−" : UP.indexOf(c))) : (v < 0 ? "−" : "") + Number(Math.abs(v).toPrecision(2)));

// How a tensor of any rank lies in a plane, with the element `index` in it.
function plane(t, index) {
  const last = index[index.length - 1];
  if (t.rank === 3) return { H: t.shape[0], W: t.shape[1], get: (i, j) => t.get(i, j, last), cur: index.slice(0, 2), index: (i, j) => [i, j, last] };
  if (t.rank === 2) return { H: t.shape[0], W: t.shape[1], get: (i, j) => t.get(i, j), cur: index, index: (i, j) => [i, j] };
  const n = t.size, W = n <= 12 ? n : n <= 64 ? 16 : n <= 1024 ? 32 : 64, H = Math.ceil(n / W), f = t.rank === 1 ? last : flatOf(index, t.shape);
  return { H, W, big: n <= 12 ? 58 : undefined, most: n <= 12 ? 600 : undefined, get: (i, j) => (i * W + j < n ? t.at(i * W + j) : null), cur: [Math.floor(f / W), f % W], index: (i, j) => unflat(i * W + j, t.shape) };
}
function tensorFigure(id, title, t, index, pick, more) {
  const view = plane(t, index);
  return mapFigure({ id, title, ...view, pick: pick && ((i, j) => pick(view.index(i, j))), ...more, ...(view.big ? { big: view.big, most: view.most } : {}) });
}

function cell(v, peak, props) {
  const node = h("td", props || {}, v === undefined ? "?" : typeof v === "string" ? v : fmt(v));
  if (typeof v === "number") {
    const c = shade(v, peak);
    node.style.backgroundColor = c.css; node.style.color = c.t > 0.6 ? "#fff" : "#16181c";
    if (v < 0) node.classList.add("neg");
  }
  return node;
}
// A small table of numbers in their colours. rows: arrays of numbers.
function grid(title, rows, o = {}) {
  const peak = o.peak ?? Math.max(0, ...rows.flat().filter((v) => typeof v === "number" && Number.isFinite(v)).map(Math.abs));
  return h("figure", { className: "grid" }, h("figcaption", {}, title), h("div", { className: "scroll" },
    h("table", {}, h("tbody", {}, rows.map((row, i) => h("tr", {}, row.map((v, j) => {
      const text = o.pick ? h("button", { type: "button", "data-fid": `${o.id}${i},${j}`, "aria-pressed": o.cur && o.cur[0] === i && o.cur[1] === j ? "true" : "false", onclick: () => { keepFocus = `${o.id}${i},${j}`; o.pick(i, j); } }, v === undefined ? "?" : fmt(v)) : null;
      const td = cell(v, peak, { className: (o.mark && o.mark(i, j)) || "" });
      if (text) td.replaceChildren(text);
      if (o.title) td.title = o.title(i, j);
      return td;
    })))))), legend(peak));
}
function table(head, rows, o = {}) {
  return h("div", { className: "scroll" }, h("table", { className: "list" }, o.caption ? h("caption", {}, o.caption) : null,
    h("thead", {}, h("tr", {}, head.map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, rows.map((row) => h("tr", { className: row.mark ? "mark" : "" }, (row.cells || row).map((v, k) => (k === 0 ? h("th", { scope: "row" }, typeof v === "number" ? fmt(v) : v ?? "?") : h("td", { className: typeof v === "number" ? "n" : "" }, typeof v === "number" ? fmt(v) : v ?? "?"))))))));
}
function bars(title, rows, o = {}) {
  // rows: {label, v, mark}. Zero is in the middle if anything is negative.
  const peak = Math.max(1e-300, ...rows.map((r) => Math.abs(r.v) || 0)), both = rows.some((r) => r.v < 0);
  return h("figure", { className: "bars" }, h("figcaption", {}, title), h("table", {}, h("tbody", {}, rows.map((r) => {
    const bar = h("span", { className: "bar" + (r.v < 0 ? " neg" : "") }), share = Math.abs(r.v || 0) / peak * (both ? 50 : 100);
    bar.style.width = share + "%";
    bar.style.marginLeft = (both ? (r.v < 0 ? 50 - share : 50) : 0) + "%";
    return h("tr", { className: r.mark ? "mark" : "" }, h("th", { scope: "row" }, r.label), h("td", { className: "track" + (both ? " both" : "") }, bar), h("td", { className: "n" }, o.format ? o.format(r.v) : fmt(r.v)));
  }))), h("p", { className: "hint" }, `Longest bar: ${o.format ? o.format(peak) : fmt(peak)}.` + (o.hint ? " " + o.hint : "")));
}

function badge(step) {
  const verdict = judge(step);
  if (verdict === "ok") return h("span", { className: "badge ok" }, "✓ recomputed = recorded");
  if (verdict === "bad") return h("span", { className: "badge bad" }, `✗ recorded: ${fmt(step.rec)}`);
  return h("span", { className: "badge none" }, step.rec === undefined ? "no recorded number to compare with" : `recorded ${fmt(step.rec)}; its operands are not in this file`);
}
function worked(steps, title) {
  if (!steps.length) return null;
  say(steps.map((s) => `${s.name} is ${fmt(s.value ?? s.rec)}, from ${s.text}. ${judge(s) === "ok" ? "Recomputed equals recorded." : judge(s) === "bad" ? "Recomputed differs from recorded!" : ""}`).join(" "));
  return h("section", { className: "worked", "aria-label": "Worked sum" }, h("h3", {}, title || "The sum"), h("ol", {}, steps.map((s) => h("li", {},
    h("div", { className: "line" }, h("span", { className: "name" }, s.name), h("span", { className: "eq" }, "="), h("span", { className: "text" }, s.text), h("span", { className: "eq" }, "="), h("output", {}, fmt(s.value ?? s.rec)), badge(s)), s.note ? h("p", { className: "hint" }, s.note) : null))));
}
function say(text) { const live = document.getElementById("live"); if (live.textContent !== text) live.textContent = text; }
function button(text, act, o = {}) {
  return h("button", { type: "button", "data-fid": o.id || text, onclick: () => { keepFocus = o.id || text; act(); }, "aria-pressed": o.pressed === undefined ? undefined : String(o.pressed), disabled: o.disabled, className: o.className, title: o.title, "aria-label": o.label }, text);
}
const row = (...children) => h("div", { className: "row" }, ...children);
const note = (...children) => h("p", { className: "note" }, ...children);

// ---- the state: everything that can be looked at has an address ---------------------------------------------------

const DIRECTIONS = { f: "Forward", b: "Backward", u: "Update" };
let S = { l: 0, d: "f", v: "", e: null, c: null, k: 0, q: null, w: 0, bug: 0 };
let keepFocus = null;
function readHash() {
  const found = {};
  for (const part of location.hash.slice(1).split("&")) { const [k, v] = part.split("="); if (v !== undefined) found[k] = decodeURIComponent(v); }
  const ints = (text) => (text && /^\d+(,\d+)*$/.test(text) ? text.split(",").map(Number) : null);
  const one = (text) => (/^\d+$/.test(text || "") ? Number(text) : 0);
  return { l: Math.min(one(found.l), D.losses === undefined ? LOSS - 1 : LOSS), d: DIRECTIONS[found.d] ? found.d : "f", v: found.v || "", e: ints(found.e), c: found.c === undefined ? null : one(found.c), k: one(found.k), q: ints(found.q), w: one(found.w), bug: one(found.bug) };
}
function writeHash() {
  const parts = [`l=${S.l}`, `d=${S.d}`];
  if (S.v) parts.push(`v=${encodeURIComponent(S.v)}`);
  if (S.e) parts.push(`e=${S.e.join(",")}`);
  if (S.c !== null) parts.push(`c=${S.c}`);
  if (S.k) parts.push(`k=${S.k}`);
  if (S.q) parts.push(`q=${S.q.join(",")}`);
  if (S.w) parts.push(`w=${S.w}`);
  if (S.bug) parts.push("bug=1");
  try { history.replaceState(null, "", "#" + parts.join("&")); } catch { /* inside a frame without an address */ }
}
function go(change) {
  const moved = ("l" in change && change.l !== S.l) || ("d" in change && change.d !== S.d) || ("v" in change && change.v !== S.v);
  S = { ...S, ...(moved ? { e: null, q: null, c: null, k: 0, v: "" } : {}), ...change };
  writeHash();
  render();
}
// The element in view; its default is the largest number that can be worked out here.
const defaults = new Map();
function chosen(l, what, t, choice) {
  if (S.e && S.e.length === t.rank && S.e.every((v, k) => v < t.shape[k])) return S.e;
  const key = l + what;
  if (!defaults.has(key)) {
    let best = null, size = -1;
    const list = [...centre(t, choice), ...sample(t, 100, choice)];
    for (const index of list.slice(0, 240)) {
      const v = Math.abs(t.get(...index));
      if (v > size && Number.isFinite(v) && explain(l, what, index).every((s) => judge(s) !== "none")) { best = index; size = v; }
    }
    defaults.set(key, best || list[0] || t.shape.map(() => 0));
  }
  return defaults.get(key);
}
function picker(t, index, names, choice) {
  // The index as number fields, so that every element can be reached without a pointer.
  return h("div", { className: "picker", role: "group", "aria-label": "Index of the chosen number" }, index.map((v, k) => h("label", {}, names[k] || `axis ${k}`, h("input", {
    type: "number", min: 0, max: t.shape[k] - 1, value: v, "data-fid": "pick" + k,
    onchange: (e) => { const n = Math.round(Number(e.target.value)); if (n >= 0 && n < t.shape[k]) { keepFocus = "pick" + k; go({ e: index.map((u, i) => (i === k ? n : u)) }); } },
  }))), choice && choice.length < t.shape[t.rank - 1] ? h("span", { className: "hint" }, `Weights are in this file for ${choice.length} of ${t.shape[t.rank - 1]}: ${choice.slice(0, 16).join(", ")}${choice.length > 16 ? ", …" : ""}`) : null);
}
const axes = (t) => (t.rank === 3 ? ["row", "column", "channel"] : t.rank === 1 ? ["number"] : t.shape.map((_, k) => "axis " + k));
function channels(t, index, choice, label = "channel") {
  // Small maps to choose a channel by.
  if (t.rank !== 3) return null;
  const list = choice || [...Array(t.shape[2]).keys()], shown = list.slice(0, 32), now = index[2];
  if (shown.length < 2) return null;
  return h("div", { className: "channels", role: "group", "aria-label": "Choose a " + label }, shown.map((c) => h("button", { type: "button", "data-fid": "ch" + c, "aria-pressed": String(c === now), "aria-label": `${label} ${c}`, onclick: () => { keepFocus = "ch" + c; go({ e: [index[0], index[1], c] }); } }, thumb(t, [c], 40), h("span", {}, c))));
}
function thumb(t, list, size, peak) {
  // One map, or four of them in a square; a vector as a strip.
  const draw = (g) => {
    g.fillStyle = "#fff"; g.fillRect(0, 0, size, size);
    const top = peak || t.largest();
    if (t.rank === 3) {
      const n = list.length > 1 ? 2 : 1, part = size / n;
      list.slice(0, n * n).forEach((c, q) => {
        const own = { top: 0 };
        for (let i = 0; i < t.shape[0]; i++) for (let j = 0; j < t.shape[1]; j++) own.top = Math.max(own.top, Math.abs(t.get(i, j, c)) || 0);
        const ch = part / t.shape[0], cw = part / t.shape[1], X = (q % n) * part, Y = Math.floor(q / n) * part;
        for (let i = 0; i < t.shape[0]; i++) for (let j = 0; j < t.shape[1]; j++) {
          const v = t.get(i, j, c);
          g.fillStyle = v === undefined ? "#d5d7dc" : shade(v, own.top).css;
          g.fillRect(X + j * cw, Y + i * ch, cw + 0.3, ch + 0.3);
        }
        if (n > 1) { g.strokeStyle = "#fff"; g.lineWidth = 2; g.strokeRect(X, Y, part, part); }
      });
    } else {
      const n = t.size, W = Math.ceil(Math.sqrt(n)), s = size / W;
      for (let f = 0; f < n; f++) { const v = t.at(f); g.fillStyle = v === undefined ? "#d5d7dc" : shade(v, top).css; g.fillRect((f % W) * s, Math.floor(f / W) * s, s + 0.3, s + 0.3); }
    }
  };
  return canvas(size, size, draw, { "aria-hidden": "true" });
}
function photo(size) {
  // The input as a picture: in its colours if it has three channels, else as ink on white paper.
  const x = T(0, "x");
  if (x.rank !== 3) return thumb(x, [0], size);
  const [H, W, C] = x.shape, s = size / Math.max(H, W);
  let low = 0, high = 0;
  for (const part of x.parts) for (const v of part.data) { if (v < low) low = v; if (v > high) high = v; }
  return canvas(W * s, H * s, (g) => {
    for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) {
      const level = (c) => Math.round(255 * ((x.get(i, j, c) ?? 0) - low) / (high - low || 1)), grey = 255 - level(0);
      g.fillStyle = C === 3 ? `rgb(${level(0)},${level(1)},${level(2)})` : `rgb(${grey},${grey},${grey})`;
      g.fillRect(j * s, i * s, s + 0.4, s + 0.4);
    }
  }, { role: "img", "aria-label": "the input image", className: "photo" });
}

// ---- the views: one for each kind of layer and direction ----------------------------------------------------------

const step = (change) => go(change);
function viewsOf(l, d) {
  if (l === LOSS) return [["loss", d === "f" ? "Prediction and loss" : d === "b" ? "Where the gradient starts" : "Before and after"]];
  const kind = L[l].kind, names = params(l).filter((n) => T(l, "g/" + n));
  if (d === "u") return names.length ? [["step", "The optimizer's step"], ["check", "Gradient check"]] : [["none", "Nothing to learn"]];
  if (kind === "Conv2D") return d === "f" ? [["one", "One output"], ["im2col", "im2col"], ["gemm", "Row · column"]] : [["dx", "dx by col2im"], ...names.map((n) => ["g:" + n, n === "w" ? "dw: one weight" : "db: one bias"])];
  if (kind === "Dense") return d === "f" ? [["one", "One output"]] : [["dx", "dx"], ...names.map((n) => ["g:" + n, n === "w" ? "dw: one weight" : "db: one bias"])];
  if (kind === "BatchNormalization") return d === "f" ? [["one", "One output"], ["stats", "Statistics"]] : [["dx", "dx in three terms"], ...names.map((n) => ["g:" + n, "d" + n])];
  return d === "f" ? [["one", "One output"]] : [["dx", "dx"]];
}
const viewNow = () => { const list = viewsOf(S.l, S.d).map(([key]) => key); return list.includes(S.v) ? S.v : list[0]; };

function activationPart(l, index) {
  const a = L[l].act;
  if (!a || a.name === "linear") return null;
  return h("p", { className: "hint" }, `Then the activation: ${a.name}.`);
}

const panels = {
  // ---- convolution
  conv_one(l) {
    const x = T(l, "x"), y = T(l, "y"), w = T(l, "p/w"), g = L[l].geo, index = chosen(l, "y", y, L[l].out), [oh, ow, o] = index, C = x.shape[2];
    const steps = explain(l, "y", index), terms = steps[0].terms, per = [...Array(C).keys()].map((c) => ({ c, ...total(terms.filter((t) => t.c === c)) }));
    const c = S.c !== null && S.c < C ? S.c : per.reduce((m, q) => (Math.abs(q.sum) > Math.abs(m.sum) ? q : m), per[0]).c, part = terms.filter((t) => t.c === c);
    const kernel = (f) => [...Array(g.k[0]).keys()].map((i) => [...Array(g.k[1]).keys()].map((j) => f(part.find((t) => t.kh === i && t.kw === j))));
    const box = { i: start(oh, 0, g), j: start(ow, 1, g), h: (g.k[0] - 1) * g.d[0] + 1, w: (g.k[1] - 1) * g.d[1] + 1, color: ACCENT };
    let running = 0;
    return [
      p(`An output pixel looks through a window of ${g.k[0]} × ${g.k[1]} pixels${C > 1 ? `, at all ${C} channels of the input` : ""}. Each number in the window is multiplied by the kernel's weight at that place; the ${terms.length} products and the bias are added up.`),
      picker(y, index, axes(y), L[l].out), channels(y, index, L[l].out, "output channel"),
      row(mapFigure({ id: "x", title: `Input, channel ${c}`, H: x.shape[0], W: x.shape[1], get: (i, j) => x.get(i, j, c), boxes: [box], pads: g.pads, most: 370, note: g.pads.flat().some(Boolean) ? "dotted cells are padding" : "" }),
        h("span", { className: "op", "aria-hidden": "true" }, "→"),
        tensorFigure("y", `Output, channel ${o}`, y, index, (e) => go({ e }), { most: 370 })),
      row(grid(`The window, channel ${c}`, kernel((t) => t.a)), h("span", { className: "op" }, "×"), grid(`The kernel w[:, :, ${c}, ${o}]`, kernel((t) => t.b)), h("span", { className: "op" }, "="), grid("Products", kernel((t) => t.v)), h("span", { className: "op" }, `Σ = ${fmt(per[c].sum)}`)),
      worked(steps),
      C > 1 ? h("details", { open: C <= 16 }, h("summary", {}, `Sum per channel (${C})`), table(["channel", "Σ of products", "so far", ""], per.map((q) => { running += q.sum; return { mark: q.c === c, cells: [String(q.c), q.sum, running, button("show", () => go({ e: index, c: q.c }), { id: "c" + q.c, label: `show channel ${q.c}` })] }; }))) : null,
      activationPart(l, index),
    ];
  },
  conv_im2col(l) {
    const x = T(l, "x"), y = T(l, "y"), g = L[l].geo, index = chosen(l, "y", y, L[l].out), [oh, ow] = index, [H, W, C] = x.shape, [OH, OW] = y.shape;
    const taps = g.k[0] * g.k[1], c = S.c !== null && S.c < C ? S.c : 0, r0 = oh * OW + ow;
    const q = S.q && S.q[0] < H && S.q[1] < W ? S.q : [Math.min(H - 1, Math.max(0, start(oh, 0, g) + g.d[0])), Math.min(W - 1, Math.max(0, start(ow, 1, g) + g.d[1]))];
    const k = Math.min(S.k, taps - 1), kh = Math.floor(k / g.k[1]), kw = k % g.k[1];
    const value = (r, t) => { const i = start(Math.floor(r / OW), 0, g) + Math.floor(t / g.k[1]) * g.d[0], j = start(r % OW, 1, g) + (t % g.k[1]) * g.d[1]; return i < 0 || j < 0 || i >= H || j >= W ? 0 : x.get(i, j, c); };
    const copies = [];
    for (const a of reach(q[0], 0, g, OH)) for (const e of reach(q[1], 1, g, OW)) copies.push({ r: a.o * OW + e.o, t: a.k * g.k[1] + e.k, oh: a.o, ow: e.o });
    const shown = 21, first = Math.max(0, Math.min(OH * OW - shown, r0 - 10)), rows = Math.min(shown, OH * OW);
    const box = { i: start(oh, 0, g), j: start(ow, 1, g), h: (g.k[0] - 1) * g.d[0] + 1, w: (g.k[1] - 1) * g.d[1] + 1, color: ACCENT };
    return [
      p("im2col writes every window as one row of a matrix. A row is an output pixel, a column is a place in the kernel. Then the whole convolution is one matrix product."),
      note(`Whole matrix: ${count(OH * OW, "row")} × ${count(taps * C, "column")} for one image. The input holds ${(H * W * C).toLocaleString("en")} numbers, the matrix ${(OH * OW * taps * C).toLocaleString("en")}: each number is copied ${fmt(OH * OW * taps / H / W)} times on average. Shown: the ${taps} columns of channel ${c}.`),
      picker(y, index, axes(y)),
      row(mapFigure({ id: "x", title: `Input, channel ${c}`, H, W, get: (i, j) => x.get(i, j, c), boxes: [box, { i: q[0], j: q[1], color: SECOND }], pads: g.pads, most: 300, pick: (i, j) => go({ e: index, q: [i, j] }), cur: undefined, below: "Choose an input pixel (violet): its copies light up in the matrix." }),
        mapFigure({ id: "m", title: `Matrix, rows ${first} to ${first + rows - 1}`, H: rows, W: taps, get: (i, j) => value(first + i, j), most: 300, big: 18, cur: [r0 - first, k],
          boxes: [{ i: r0 - first, j: 0, w: taps, h: 1, color: ACCENT }, { i: 0, j: k, w: 1, h: rows, color: "#555", dash: true, thin: true }, ...copies.filter((s) => s.r >= first && s.r < first + rows).map((s) => ({ i: s.r - first, j: s.t, color: SECOND }))],
          pick: (i, j) => { const r = first + i; go({ e: [Math.floor(r / OW), r % OW, index[2]], k: j, q }); }, below: "Choose a row (green: an output pixel) and a column (dashed)." }),
        mapFigure({ id: "col", title: `Column ${k}: the input, shifted by (${kh}, ${kw})`, H: OH, W: OW, get: (i, j) => value(i * OW + j, k), most: 300, cur: [oh, ow], boxes: copies.filter((s) => s.t === k).map((s) => ({ i: s.oh, j: s.ow, color: SECOND })), pick: (i, j) => go({ e: [i, j, index[2]], q, k }), below: "One column, laid out as an image of output pixels." })),
      p("Output pixel ", b(`(${oh}, ${ow})`), " is row ", b(String(r0)), ` = ${oh} · ${OW} + ${ow}. Input pixel `, b(`(${q.join(", ")})`), ` stands in the matrix ${count(copies.length, "time")}: `, copies.map((s) => `row ${s.r}, column ${s.t * C + c}`).join("; ") || "never", "."),
      C > 1 ? row(button("previous input channel", () => go({ e: index, c: (c + C - 1) % C, k, q })), button("next input channel", () => go({ e: index, c: (c + 1) % C, k, q }))) : null,
      worked(explain(l, "y", index), "That row, times the weights"),
    ];
  },
  conv_gemm(l) {
    const y = T(l, "y"), index = chosen(l, "y", y, L[l].out), steps = explain(l, "y", index), { terms, bias } = steps[0], K = terms.length;
    const sums = [0];
    terms.forEach((t) => sums.push(sums[sums.length - 1] + t.v));
    const k = S.k ? Math.min(S.k, K) : K, box = h("div"), wide = Math.min(24, K);
    const show = (k) => {
      const from = Math.max(0, Math.min(K - 9, k - 5));
      box.replaceChildren(
        chart("Running sum of the products", [{ name: "sum", color: ACCENT, points: sums.map((v, i) => [i, v]) }], { mark: [k, sums[k]], x: "products added", zero: true }),
        p("After ", b(String(k)), ` of ${K} products: `, b(fmt(sums[k])), k === K ? (bias === undefined ? "" : `, plus the bias ${fmt(bias)}: ${fmt(sums[k] + bias)}`) : "", "."),
        table(["k", "row (input)", "column (weight)", "product", "sum so far"], terms.slice(from, from + 9).map((t, i) => ({ mark: from + i + 1 === k, cells: [`${from + i + 1}`, `${fmt(t.a)}  ${t.an}`, `${fmt(t.b)}  ${t.bn}`, t.v, sums[from + i + 1]] }))));
    };
    show(k);
    return [
      p(`All outputs at once: cols (one row for each output pixel) times the kernel as a matrix (one column for each output channel). One output is one row times one column, number by number.`),
      picker(y, index, axes(y), L[l].out), channels(y, index, L[l].out, "output channel"),
      row(mapFigure({ title: `Row ${index[0] * y.shape[1] + index[1]} of cols`, H: Math.ceil(K / wide), W: wide, get: (i, j) => (i * wide + j < K ? terms[i * wide + j].a : null), most: 420, big: 30 }),
        mapFigure({ title: `Column ${index[2]} of the weights`, H: Math.ceil(K / wide), W: wide, get: (i, j) => (i * wide + j < K ? terms[i * wide + j].b : null), most: 420, big: 30 })),
      h("label", { className: "slider" }, `Products added`, h("input", { type: "range", min: 0, max: K, value: k, "data-fid": "k", oninput: (e) => { S.k = Number(e.target.value); writeHash(); show(S.k); } })),
      box, worked(steps),
    ];
  },
  conv_dx(l) {
    const dx = T(l, "dx"), dz = dzOf(l), index = chosen(l, "dx", dx, L[l].in), [i, j, c] = index, steps = explain(l, "dx", index), terms = steps[0].terms;
    const O = dz.shape[2], o = S.c !== null && S.c < O ? S.c : strongestOutput(terms, O);
    const last = terms[terms.length - 1], [H, W] = dx.shape;
    let bugMap = null, differ = 0, known = 0;
    if (S.bug) {
      const here = new Map();
      bugMap = (a, e) => { const key = a * W + e; if (!here.has(key)) { const t = convDx(l, [a, e, c]); here.set(key, t.length ? nanless(t[t.length - 1].v) : 0); } return here.get(key); };
      for (let a = 0; a < H; a++) for (let e = 0; e < W; e++) { const v = bugMap(a, e), right = dx.get(a, e, c); if (v !== undefined && right !== undefined) { known++; if (Math.abs(v - right) > 1e-4 * dx.largest()) differ++; } }
    }
    let running = 0;
    return [
      p("Which outputs did this input pixel take part in? Each of them sends back its gradient times the weight through which it saw the pixel; col2im adds what arrives."),
      picker(dx, index, axes(dx), L[l].in), channels(dx, index, L[l].in, "input channel"),
      row(mapFigure({ id: "dz", title: `dz, output channel ${o}`, H: dz.shape[0], W: dz.shape[1], get: (a, e) => dz.get(a, e, o), most: 280, boxes: terms.map((t) => ({ i: t.oh, j: t.ow, color: ACCENT })), below: `${count(terms.length, "output pixel")} saw it (green).` }),
        h("span", { className: "op", "aria-hidden": "true" }, "→"),
        tensorFigure("dx", `dx, channel ${c}`, dx, index, (e) => go({ e, bug: S.bug }), { most: 280 }),
        bugMap ? mapFigure({ title: "dx with = in place of +=", H, W, get: bugMap, cur: [i, j], most: 280, peak: peakOf(H, W, (a, e) => dx.get(a, e, c)), note: "same scale", below: known ? `${differ} of ${known} pixels are wrong.` : "" }) : null),
      h("p", {}, button(S.bug ? "Add again (+=)" : "Assign instead of add (=)", () => go({ e: S.e, bug: S.bug ? 0 : 1 }), { id: "bug", pressed: !!S.bug })),
      S.bug && last ? note("The famous bug: with ", code("="), " each contribution overwrites the one before. Here only the last survives: ", b(fmt(last.v)), " instead of ", b(fmt(steps[0].value)), ". The network still learns a little, so nobody notices; a gradient check does, at once.") : null,
      worked(steps),
      table(["output pixel", "kernel place", `contribution: Σ over ${O} channels of dz · w`, S.bug ? "pixel now (assigned)" : "sum so far", ""], terms.map((t) => { running = S.bug ? t.v : running + t.v; return [`(${t.oh}, ${t.ow})`, `(${t.kh}, ${t.kw})`, t.v, running, button("go", () => go({ l, d: "f", v: "one", e: [t.oh, t.ow, o] }), { id: `go${t.oh},${t.ow}`, label: `show output pixel ${t.oh}, ${t.ow}` })]; })),
      last ? h("details", {}, h("summary", {}, `The last contribution in full (${O} products)`), table(["output channel", "dz", "w", "product"], last.inner.map((t, k) => [String(k), t.a, t.b, t.v]))) : null,
    ];
  },
  conv_gw(l) {
    const g = T(l, "g/w"), index = chosen(l, "g:w", g, null), [kh, kw, c, o] = index, x = T(l, "x"), dz = dzOf(l), steps = explain(l, "g:w", index), terms = steps[0].terms, OW = dz.shape[1], OH = dz.shape[0];
    const taps = L[l].geo.k, first = terms.find((t) => !t.out), many = [...terms].sort((a, e) => Math.abs(e.v) - Math.abs(a.v)).slice(0, 6);
    const top = many[0];
    return [
      p("A weight is used at every output pixel, so every output pixel has a say in its gradient: the input number that it multiplied there, times the gradient that came back there. All are added, over the whole image and the whole batch."),
      picker(g, index, ["kernel row", "kernel column", "input channel", "output channel"]),
      row(weightChooser(l, index), grid(`dw[:, :, ${c}, ${o}] (choose a weight)`, [...Array(taps[0]).keys()].map((a) => [...Array(taps[1]).keys()].map((e) => g.get(a, e, c, o))), { id: "w", cur: [kh, kw], pick: (a, e) => go({ e: [a, e, c, o] }), mark: (a, e) => (a === kh && e === kw ? "chosen" : "") })),
      row(mapFigure({ title: `Input as this weight saw it (shift ${kh}, ${kw})`, H: OH, W: OW, get: (a, e) => terms[a * OW + e].a, most: 300 }), h("span", { className: "op" }, "×"),
        mapFigure({ title: `dz, channel ${o}`, H: OH, W: OW, get: (a, e) => terms[a * OW + e].b, most: 300 }), h("span", { className: "op" }, "="),
        mapFigure({ title: "Products: who gave this weight its gradient", H: OH, W: OW, get: (a, e) => nanless(terms[a * OW + e].v), most: 300, cur: top && [top.oh, top.ow] })),
      worked(steps),
      row(sharesFigure(steps[1]), table(["largest products", "input", "dz", "product"], many.map((t) => [`(${t.oh}, ${t.ow})`, t.a, t.b, t.v]))),
      N > 1 && first ? note(`The other images are not in this file. Their shares were summed in Python when the page was written; this image's share is computed here, from its ${terms.length} products.`) : null,
    ];
  },
  conv_gb(l) {
    const g = T(l, "g/b"), dz = dzOf(l), index = chosen(l, "g:b", g, L[l].out), o = index[0], steps = explain(l, "g:b", index);
    return [
      p("The bias is added to every output pixel of its channel, so its gradient is simply the sum of all gradients there."),
      picker(g, index, ["output channel"]),
      row(mapFigure({ title: `dz, channel ${o}`, H: dz.shape[0], W: dz.shape[1], get: (i, j) => dz.get(i, j, o) }), sharesFigure(steps[1]), tensorFigure("gb", "db, all channels", g, index, (e) => go({ e }), { most: 240 })),
      worked(steps),
    ];
  },
  // ---- dense
  dense_one(l) {
    const y = T(l, "y"), index = chosen(l, "y", y, L[l].out), steps = explain(l, "y", index), terms = [...steps[0].terms], x = T(l, "x"), last = l === LOSS - 1 && y.rank === 1;
    terms.sort((a, e) => Math.abs(e.v) - Math.abs(a.v));
    const shown = terms.slice(0, 14), rest = total(terms.slice(14)), from = l > 0 && L[l - 1].kind === "Flatten" ? T(l - 1, "x").shape : null;
    return [
      p(`Every output is a weighted sum of all ${x.shape[x.rank - 1].toLocaleString("en")} inputs, plus a bias. The largest terms decide.`),
      picker(y, index, axes(y), L[l].out),
      row(tensorFigure("y", "Outputs", y, index, (e) => go({ e }), { most: 370 }), tensorFigure("x", "Inputs", x, [...index.slice(0, -1), shown[0].i], null, { most: 300, cur: undefined })),
      last ? h("div", { className: "choices", role: "group", "aria-label": "Choose a class" }, [...Array(Math.min(y.shape[0], 20)).keys()].map((k) => button(className(k), () => go({ e: [k] }), { id: "class" + k, pressed: k === index[0] }))) : null,
      worked(steps),
      row(bars("The largest terms, input × weight", shown.map((t) => ({ label: `input ${t.i}` + (from ? ` (${unflat(t.i, from).join(", ")})` : ""), v: t.v })), { hint: terms.length > 14 ? `The other ${terms.length - 14} terms together: ${fmt(rest.sum)}.` : "" }),
        table(["input", "x", "w", "x · w"], shown.map((t) => [String(t.i), t.a, t.b, t.v]))),
      L[l].act.name === "softmax" ? softmaxPart(l, index) : activationPart(l, index),
    ];
  },
  dense_dx(l) {
    const dx = T(l, "dx"), index = chosen(l, "dx", dx, L[l].in), steps = explain(l, "dx", index), terms = steps[0].terms, big = [...terms].sort((a, e) => Math.abs(e.v) - Math.abs(a.v)).slice(0, 14);
    const last = l === LOSS - 1;
    return [
      p("An input reaches the loss through every output: each sends back its gradient times the weight between the two."),
      picker(dx, index, axes(dx), L[l].in),
      row(tensorFigure("dx", "dx", dx, index, (e) => go({ e }), { most: 320 }), tensorFigure("dz", "dz of the outputs", dzOf(l), [0, 0, 0].slice(0, dzOf(l).rank), null, { most: 300, cur: undefined })),
      worked(steps), bars("The largest terms, dz × weight", big.map((t) => ({ label: last ? className(t.i) : `output ${t.i}`, v: t.v }))),
    ];
  },
  dense_gw(l, name) {
    const g = T(l, "g/" + name), index = chosen(l, "g:" + name, g, null), steps = explain(l, "g:" + name, index), terms = steps[0].terms, o = index[index.length - 1];
    return [
      p(name === "w" ? "This weight multiplied one input of every sample. Its gradient: that input times the gradient of the output it feeds, summed over the batch." : "A bias is added in every sample: its gradient is the sum of dz over the batch."),
      picker(g, index, name === "w" ? ["input", "output"] : ["output"]),
      name === "w" ? weightChooser(l, index) : tensorFigure("gb", "db", g, index, (e) => go({ e }), { most: 370 }),
      worked(steps),
      row(bars("What each sample gave", terms.slice(0, 40).map((t) => ({ label: t.n === D.image ? `sample ${t.n} (this one)` : `sample ${t.n}`, v: t.v, mark: t.n === D.image }))),
        name === "w" ? table(["sample", `x[${index[0]}]`, `dz[${o}]`, "product"], terms.slice(0, 40).map((t) => ({ mark: t.n === D.image, cells: [String(t.n), t.a, t.b, t.v] }))) : null),
    ];
  },
  // ---- batch normalisation
  bn_one(l) {
    const y = T(l, "y"), index = chosen(l, "y", y, L[l].out), f = bnForward(l, index), x = T(l, "x");
    return [
      p("Each channel is shifted to mean 0 and scaled to variance 1, over all pixels of all images of the batch; then stretched by γ and moved by β, which are learned."),
      picker(y, index, axes(y)), channels(y, index, L[l].out),
      row(tensorFigure("x", "Input", x, index, (e) => go({ e }), { most: 370 }), h("span", { className: "op", "aria-hidden": "true" }, "→"), tensorFigure("y", "Output", y, index, (e) => go({ e }), { most: 370 })),
      table(["", "input x", "mean", "variance", "x̂ = (x − mean) / √(variance + ε)", "γ", "β", "y"], [[L[l].of_batch ? "now: statistics of this batch" : "now: running statistics", f.x, f.mean, f.v, f.hat, f.gamma, f.beta, f.step.value], ["in evaluation: running statistics", f.x, f.mm, f.mv, (f.x - f.mm) / Math.sqrt(f.mv + L[l].config.epsilon), f.gamma, f.beta, f.evaluation]], { caption: "Training beside evaluation" }),
      worked([f.step]),
      note(`A large gap between the two rows means that the running statistics are not there yet. Here: ${fmt(f.step.value)} in this step, ${fmt(f.evaluation)} in evaluation.`),
    ];
  },
  bn_stats(l) {
    const t = T(l, "mean"), index = chosen(l, "stats", t, null), steps = explain(l, "stats", index), x = T(l, "x"), c = index[0];
    return [
      p(L[l].of_batch ? `Mean and variance of a channel, over N·H·W = ${N * spots(x)} numbers: ${count(N, "image")} of ${count(spots(x), "number")} each. One channel, one mean; never one for each pixel.` : "In evaluation (or frozen) the running statistics take the place of the batch's."),
      picker(t, index, ["channel"]),
      row(tensorFigure("mean", "Means of all channels", t, index, (e) => go({ e }), { most: 260 }), tensorFigure("var", "Variances of all channels", T(l, "var"), index, (e) => go({ e }), { most: 260 })),
      worked(steps, "The statistics"),
      row(...steps.filter((s) => s.shares).map((s) => sharesFigure(s, s.name === "mean" ? `Σ x of each image, channel ${c}` : `Σ (x − mean)² of each image, channel ${c}`))),
    ];
  },
  bn_dx(l) {
    const dx = T(l, "dx"), index = chosen(l, "dx", dx, null), f = bnBackward(l, index), three = L[l].of_batch;
    return [
      p(three ? "x reaches y by three ways: directly, through the mean of its channel, and through the variance. The gradient has one term for each. Forget one, and training still runs; the gradient check fails." : "Mean and variance are constants here, so only the direct way is left."),
      picker(dx, index, axes(dx)), channels(dx, index, L[l].in),
      row(tensorFigure("dy", "dy", T(l, "dy"), index, (e) => go({ e }), { most: 370 }), h("span", { className: "op", "aria-hidden": "true" }, "→"), tensorFigure("dx", "dx", dx, index, (e) => go({ e }), { most: 370 })),
      three ? bars("The three terms", [{ label: "directly: γ/σ · dy", v: f.direct }, { label: "through the mean: −γ/σ · mean(dy)", v: f.viaMean }, { label: "through the variance: −γ/σ · x̂ · mean(dy·x̂)", v: f.viaVar }]) : null,
      three ? table(["quantity", "value"], [["γ / σ", f.a], ["dy", f.dy], [`mean of dy over the ${f.M} numbers of the channel`, f.sy / f.M], ["x̂", f.hat], ["mean of dy · x̂", f.sx / f.M]]) : null,
      worked([f.step]),
    ];
  },
  bn_g(l, name) {
    const g = T(l, "g/" + name), index = chosen(l, "g:" + name, g, null), steps = explain(l, "g:" + name, index), c = index[0], dy = T(l, "dy");
    const f = (i, j) => (dy.rank === 3 ? bnForward(l, [i, j, c]).hat * dy.get(i, j, c) : undefined);
    return [
      p(name === "gamma" ? "γ multiplies x̂ everywhere in its channel: dγ is the sum of dy · x̂." : "β is added everywhere in its channel: dβ is the sum of dy."),
      picker(g, index, ["channel"]),
      row(dy.rank === 3 ? mapFigure({ title: name === "gamma" ? `dy · x̂, channel ${c}` : `dy, channel ${c}`, H: dy.shape[0], W: dy.shape[1], get: name === "gamma" ? (i, j) => nanless(f(i, j)) : (i, j) => dy.get(i, j, c), most: 300 }) : null, sharesFigure(steps[1]), tensorFigure("g", "All channels", g, index, (e) => go({ e }), { most: 240 })),
      worked(steps),
    ];
  },
  // ---- activations
  act(l, d) {
    const a = L[l].act, fwd = d === "f", t = T(l, fwd ? "y" : "dx"), index = chosen(l, fwd ? "y" : "dx", t, null);
    if (a.name === "softmax") return [p(fwd ? "Softmax turns numbers into probabilities." : "The gradient of softmax and loss together."), picker(t, index, axes(t)), worked(explain(l, fwd ? "y" : "dx", index)), softmaxPart(l, index)];
    const x = T(l, "x"), y = T(l, "y"), off = share(y, (v) => v === 0), relu = a.name === "relu" && !num(a.slope);
    const mask = (i, j) => { const v = plane(y, index).get(i, j); return v === undefined ? undefined : v > 0 ? 1 : 0; };
    const dead = relu ? { dead: (i, j) => plane(y, index).get(i, j) === 0, note: "hatched: switched off" } : {};
    return [
      p(relu ? (fwd ? "ReLU keeps what is above 0 and switches the rest off." : "Where ReLU let a number through, the gradient passes unchanged; where it was switched off, nothing passes.") : `${a.name}, applied to each number${fwd ? "" : `: the gradient is multiplied by its slope, ${slopeText[a.name] || "that of a function of your own"}`}.`),
      picker(t, index, axes(t)), channels(t, index, L[l].out),
      fwd ? row(tensorFigure("x", "Input", x, index, (e) => go({ e }), { most: 370, ...dead }), h("span", { className: "op", "aria-hidden": "true" }, "→"), tensorFigure("y", "Output", y, index, (e) => go({ e }), { most: 370 }))
        : row(tensorFigure("dy", "dy, from above", T(l, "dy"), index, (e) => go({ e }), { most: 300, ...dead }), relu ? h("span", { className: "op" }, "×") : null, relu ? mapFigure({ title: "Mask: 1 where the output is above 0", ...plane(y, index), get: mask, cur: plane(y, index).cur, most: 300, peak: 1 }) : null, h("span", { className: "op" }, "="), tensorFigure("dx", "dx", t, index, (e) => go({ e }), { most: 300 })),
      worked(explain(l, fwd ? "y" : "dx", index)),
      relu ? note(`${(off * 100).toFixed(1)} % of this layer's outputs are 0 for this image.`) : null,
    ];
  },
  // ---- pooling
  pool(l, d) {
    const max = L[l].kind === "MaxPooling2D", g = L[l].geo, x = T(l, "x"), y = T(l, "y"), fwd = d === "f", t = T(l, fwd ? "y" : "dx"), index = chosen(l, fwd ? "y" : "dx", t, null), [H, W] = x.shape, [OH, OW] = y.shape;
    const lastRow = (OH - 1) * g.s[0] - g.pads[0][0] + g.k[0], lastCol = (OW - 1) * g.s[1] - g.pads[1][0] + g.k[1];
    const lost = [H > lastRow ? count(H - lastRow, "row") : "", W > lastCol ? count(W - lastCol, "column") : ""].filter(Boolean).join(" and ");
    const c = index[2], dead = lost ? { dead: (i, j) => i >= lastRow || j >= lastCol, note: "hatched: in no window" } : {};
    const dropped = lost ? note(`${H} × ${W} is not a whole number of windows: the last ${lost} are in no window. They are dropped and receive no gradient.`) : note(`${H} × ${W} is cut into ${OH} × ${OW} windows without a rest.`);
    if (!fwd) {
      const f = poolBackward(l, index), hits = f.terms.map((q) => ({ i: q.oh, j: q.ow, color: ACCENT }));
      return [
        p(max ? "The gradient of a window goes to its winner alone." : "Every pixel of a window receives an equal share."), picker(t, index, axes(t)), channels(t, index, L[l].in),
        row(mapFigure({ id: "dy", title: `dy, channel ${c}`, H: OH, W: OW, get: (i, j) => T(l, "dy").get(i, j, c), boxes: hits, most: 370 }), h("span", { className: "op", "aria-hidden": "true" }, "→"), tensorFigure("dx", `dx, channel ${c}`, t, index, (e) => go({ e }), { most: 370, ...dead })),
        worked(f.steps), table(["window", "dy", max ? "is it this pixel?" : "share", "arrives"], f.terms.map((q) => [`(${q.oh}, ${q.ow})`, q.a, max ? q.bn : q.b, q.v])), dropped,
      ];
    }
    const f = poolForward(l, index), peak = Math.max(...f.cells.map((q) => Math.abs(q.v) || 0)), cells = [...Array(g.k[0]).keys()].map((i) => [...Array(g.k[1]).keys()].map((j) => { const q = f.cells[i * g.k[1] + j]; return q.out ? "pad" : q.v; }));
    let ties = 0;
    if (max) for (let i = 0; i < OH; i++) for (let j = 0; j < OW; j++) { const q = windowCells(l, [i, j, c]).filter((e) => !e.out), top = y.get(i, j, c); if (q.filter((e) => e.v === top).length > 1) ties++; }
    return [
      p(max ? "Of each window the largest number stays. The place of the winner is remembered for the way back." : "Each window becomes its mean; padding is not counted."), picker(t, index, axes(t)), channels(t, index, L[l].out),
      row(mapFigure({ id: "x", title: `Input, channel ${c}`, H, W, get: (i, j) => x.get(i, j, c), boxes: [{ i: start(index[0], 0, g), j: start(index[1], 1, g), h: g.k[0], w: g.k[1], color: ACCENT }, ...(max && f.best >= 0 ? [{ i: f.cells[f.best].i, j: f.cells[f.best].j, color: SECOND }] : [])], pads: g.pads, most: 370, ...dead }), h("span", { className: "op", "aria-hidden": "true" }, "→"), tensorFigure("y", `Output, channel ${c}`, y, index, (e) => go({ e }), { most: 370 }),
        grid(max ? "The window (framed: winner)" : "The window", cells, { peak, mark: (i, j) => (max && i * g.k[1] + j === f.best ? "chosen" : "") })),
      worked(f.steps),
      max && f.ties > 1 ? note(`A tie: ${f.ties} numbers of this window are equal. The first one wins, and alone receives the gradient.`) : null,
      max ? note(`Ties in channel ${c}: ${ties} of ${OH * OW} windows` + (ties ? " (mostly windows of zeros, behind a ReLU)." : ".")) : null, dropped,
    ];
  },
  gap(l, d) {
    const fwd = d === "f", t = T(l, fwd ? "y" : "dx"), index = chosen(l, fwd ? "y" : "dx", t, null), x = T(l, "x"), c = index[index.length - 1];
    return [p(fwd ? "Each channel becomes its mean over the whole image." : "Every pixel of a channel receives the same share: dy / (H·W)."), picker(t, index, axes(t)), row(mapFigure({ title: `Input, channel ${c}`, H: x.shape[0], W: x.shape[1], get: (i, j) => x.get(i, j, c) }), tensorFigure("t", fwd ? "Output" : "dx", t, index, (e) => go({ e }))), worked(explain(l, fwd ? "y" : "dx", index))];
  },
  // ---- layers that move or scale
  flatten(l, d) {
    const fwd = d === "f", x = T(l, "x"), t = T(l, fwd ? "y" : "dx"), index = chosen(l, fwd ? "y" : "dx", t, null), f = fwd ? index[0] : flatOf(index, x.shape), from = unflat(f, x.shape), [, W, C] = x.shape;
    const map = T(l, fwd ? "x" : "dx"), row1 = T(l, fwd ? "y" : "dy"), take = (k) => go({ e: fwd ? [k] : unflat(k, x.shape) });
    return [
      p("The same numbers in the same order, in one row. No arithmetic, only a new address; the way back folds the row up again."),
      picker(t, index, fwd ? ["place in the row"] : axes(t)),
      row(x.rank === 3 ? tensorFigure("x", `${fwd ? "Input" : "dx"}, channel ${from[2]}`, map, from, (e) => take(flatOf(e, x.shape)), { most: 300 }) : tensorFigure("x", fwd ? "Input" : "dx", map, from, (e) => take(flatOf(e, x.shape))), h("span", { className: "op", "aria-hidden": "true" }, fwd ? "→" : "←"), tensorFigure("y", fwd ? "The row (wrapped to fit)" : "dy: the row", row1, [f], (e) => take(e[0]), { most: 330 })),
      x.rank === 3 ? table(["direction", "rule", "here"], [["there", "(row · W + column) · C + channel", `(${from[0]} · ${W} + ${from[1]}) · ${C} + ${from[2]} = ${f}`], ["and back", "channel = place mod C; then column = rest mod W; row", `${f} mod ${C} = ${f % C}; ${Math.floor(f / C)} mod ${W} = ${Math.floor(f / C) % W}; row ${Math.floor(f / C / W)}`]], { caption: "The index, both ways" }) : null,
      worked(explain(l, fwd ? "y" : "dx", index), "The number"),
    ];
  },
  dropout(l, d) {
    const fwd = d === "f", t = T(l, fwd ? "y" : "dx"), from = T(l, fwd ? "x" : "dy"), m = T(l, "mask"), index = chosen(l, fwd ? "y" : "dx", t, null), rate = L[l].config.rate, pl = m && plane(m, index);
    const kept = m ? share(m, (v) => v === 1) : 1;
    return [
      p(m ? `Each number is dropped with probability ${rate}; the others are multiplied by 1 / (1 − ${rate}) = ${fmt(1 / (1 - rate))}, so that the expected sum stays the same.` : "In evaluation dropout does nothing: every number passes, without a factor."),
      picker(t, index, axes(t)), channels(t, index, L[l].out),
      row(tensorFigure("x", fwd ? "Input" : "dy", from, index, (e) => go({ e }), { most: 300, ...(m ? { dead: (i, j) => pl.get(i, j) === 0, note: "hatched: dropped" } : {}) }), m ? h("span", { className: "op" }, "×") : null, m ? mapFigure({ title: "Mask: 1 keeps, 0 drops", ...pl, most: 300, peak: 1 }) : null, h("span", { className: "op" }, m ? `× ${fmt(1 / (1 - rate))} =` : "="), tensorFigure("y", fwd ? "Output" : "dx", t, index, (e) => go({ e }), { most: 300 })),
      worked(explain(l, fwd ? "y" : "dx", index)),
      m ? note(`${(kept * 100).toFixed(1)} % of this image's numbers were kept in this step; ${fmt(100 * (1 - rate))} % are to be expected.${fwd ? "" : " The way back uses the same mask and the same factor."}`) : null,
    ];
  },
  plain(l, d) {
    const fwd = d === "f", t = T(l, fwd ? "y" : "dx"), from = T(l, fwd ? "x" : "dy"), index = chosen(l, fwd ? "y" : "dx", t, null), same = from.rank === t.rank && from.shape.every((v, k) => v === t.shape[k]);
    return [p(L[l].kind === "Rescaling" ? "The same factor and offset for every number." : `${L[l].kind} is not a layer of minicnn: the page shows its numbers, but cannot work them out.`), picker(t, index, axes(t)), channels(t, index, null), row(tensorFigure("x", fwd ? "Input" : "dy", from, same ? index : from.shape.map(() => 0), same ? (e) => go({ e }) : null), tensorFigure("y", fwd ? "Output" : "dx", t, index, (e) => go({ e }))), worked(explain(l, fwd ? "y" : "dx", index))];
  },
  // ---- the update
  update(l) {
    const names = params(l).filter((n) => T(l, "g/" + n)), name = names[S.c ?? 0] || names[0], u = T(l, "u/" + name), index = chosen(l, "u:" + name, u, null), steps = explain(l, "u:" + name, index), o = D.optimizer;
    const g = T(l, "a/" + name)?.get(...index) ?? T(l, "g/" + name).get(...index), before = T(l, "p/" + name).get(...index), lr = num(o.learning_rate);
    const others = [["SGD", {}], ["SGD with momentum 0.9", { momentum: 0.9 }], ["Adam", {}]].map(([label, config]) => {
      const kind = label.startsWith("SGD") ? "SGD" : "Adam";
      let weight = before, state = { momentum: 0, m: 0, v: 0 };
      const moves = [];
      for (let k = 1; k <= 10; k++) { const r = rule(kind, config, state, weight, g, lr, k); weight = r.p; state = { ...state, ...r.slots }; moves.push(weight - before); }
      return [label, moves[0], moves[1], moves[9]];
    });
    return [
      p(`The optimizer (${o.class_name}, learning rate ${fmt(lr)}, step ${o.iterations + 1}) turns a gradient into a new weight.`),
      names.length > 1 ? h("div", { className: "choices", role: "group", "aria-label": "Choose a parameter" }, names.map((n, k) => button(n, () => go({ c: k, e: null }), { id: "param" + n, pressed: n === name }))) : null,
      picker(u, index, u.rank === 4 ? ["kernel row", "kernel column", "input channel", "output channel"] : u.rank === 2 ? ["input", "output"] : ["number"]),
      u.rank > 1 ? weightChooser(l, index) : tensorFigure("u", `${name} after`, u, index, (e) => go({ e, c: S.c }), { most: 300 }),
      table(["", "before", "gradient", "after", "change"], [[`${name}${at(index)}`, before, T(l, "g/" + name).get(...index), u.get(...index), u.get(...index) - before]]),
      worked(steps, "The step"),
      table(["from the same gradient", "after 1 step", "after 2 steps", "after 10 steps"], others, { caption: `What three optimizers would make of the gradient ${fmt(g)}, all with learning rate ${fmt(lr)}, starting anew, if it stayed the same (change of the weight)` }),
      note("SGD's step grows with the gradient. Momentum gathers speed. Adam's first step is the learning rate itself, whatever the gradient's size."),
    ];
  },
  check(l) {
    const list = D.check.filter((c) => c.layer === l);
    if (!list.length) return [p("No gradient check is in this file for this layer: each needs dozens of passes through the network, and those of this layer would have taken too long (or a layer is not one of minicnn's, or there is no loss)."), note(`There are checks for: ${[...new Set(D.check.map((c) => L[c.layer].key))].join(", ") || "none"}.`)];
    const c = list[Math.min(S.k, list.length - 1)], rows = checkRows(c), rec = num(c.recorded), best = rows.reduce((a, e) => (e.error64 < a.error64 ? e : a)), nothing = Math.abs(num(c.exact)) < num(c.noise);
    return [
      p("Is the gradient right? Move the weight by ±h, compute the loss both times, and divide the difference by 2h. That needs no backward pass, so it is an independent witness."),
      h("div", { className: "choices", role: "group", "aria-label": "Choose a weight" }, list.map((q, k) => button(`${q.param}${at(q.index)}`, () => go({ k }), { id: "check" + k, pressed: q === c }))),
      chart("Relative error of the difference quotient (log₁₀), against log₁₀ h", [{ name: "float64", color: ACCENT, points: rows.map((r) => [Math.log10(r.h), Math.log10(Math.max(r.error64, 1e-13))]) }, { name: "float32", color: SECOND, dash: true, points: rows.map((r) => [Math.log10(r.h), Math.log10(Math.min(Math.max(r.error32, 1e-13), 1e3))]) }], { x: "log₁₀ h" }),
      note("Right of the valley, h is so large that the curve bends. Left of it, the two losses agree in so many digits that rounding is all that is left. In float32 hardly anything remains: that is why checks run in float64. A bump may be a kink (a ReLU or a maximum that changes)."),
      worked([{ name: "quotient", text: `(${best.plus.toPrecision(12)} − ${best.minus.toPrecision(12)}) / (2 · ${bracket(best.h)})`, value: best.quotient64, rec, mag: allowed(c) / TOL, note: `Compared within ${fmt(allowed(c))}: a thousandth, and the rounding of float32 in the recorded gradient.` }], "The best h, in float64"),
      table(["h", "loss at w + h", "loss at w − h", "quotient", "error, float64", "error, float32"], rows.map((r) => ({ mark: r === best, cells: [fmt(r.h), r.plus.toPrecision(10), r.minus.toPrecision(10), r.quotient64, r.error64, r.error32] }))),
      nothing ? note("This gradient is 0 but for rounding. A bias in front of a batch normalisation is like that: the mean is taken off again, so the bias changes nothing.") : null,
      note(`Honestly: the losses were computed in Python when this page was written, with the layers from this one on; the quotients and errors are computed here. Gradient by backpropagation in float64: ${fmt(num(c.exact))}.`),
    ];
  },
  none(l) { return [p(`${L[l].key} has no parameters: nothing to update. The optimizer only visits layers that learn.`)]; },
  // ---- the loss
  loss(l, d) {
    const last = LOSS - 1, y = T(last, "y"), vector = y.rank === 1, K = y.shape[0], classes = [...Array(Math.min(K, 40)).keys()], steps = lossSteps();
    if (d === "u") {
      const lists = [];
      L.forEach((q, k) => params(k).forEach((n) => { const u = T(k, "u/" + n), w = T(k, "p/" + n); if (!u || !T(k, "a/" + n)) return; let move = 0, size = 0; for (const index of sample(u, 400)) { const v = w.get(...index); move += (u.get(...index) - v) ** 2; size += v * v; } lists.push({ label: `${q.key} ${n}`, v: size ? Math.sqrt(move / size) : 0 }); }));
      const fell = num(D.loss_after) < num(D.loss);
      return [p("One step of the optimizer, and the same batch once more (with the same dropout masks)."), row(bars("Loss of the batch", [{ label: "before", v: num(D.loss) }, { label: "after", v: num(D.loss_after) }]), bars("Size of the update, relative to the weights", lists, { hint: "Healthy: 10⁻⁴ to 10⁻². From a sample of the weights in this file; parameters that start at 0 have no meaningful ratio." })), note(`The loss ${fell ? "fell" : "rose"} from ${fmt(num(D.loss))} to ${fmt(num(D.loss_after))}` + (fell ? "." : ": with a step of this size that can happen."))];
    }
    if (d === "b") {
      const k = S.e && S.e[0] < K ? S.e[0] : D.label ?? 0;
      if (!vector) return [p("The gradient of the loss by the network's output is recorded; see the last layer's dy.")];
      const list = classes.map((q) => explain(LOSS, "dx", [q])[0]), name = list[0].name;
      return [p(name === "dlogits" ? `Softmax (or sigmoid) and cross-entropy together have the simplest gradient there is: probability minus target, divided by the batch of ${N}, because the loss is the mean over it.` : "The derivative of the loss by each output; 1/N, because the loss is the mean over the batch."),
        bars(name === "dlogits" ? "Gradient by the logits" : "Gradient by the outputs", classes.map((q) => ({ label: className(q), v: list[q].value ?? list[q].rec, mark: q === k }))),
        h("div", { className: "choices", role: "group", "aria-label": "Choose an output" }, classes.map((q) => button(className(q), () => go({ e: [q] }), { id: "class" + q, pressed: q === k }))), worked([list[k]]), softmaxLab()];
    }
    const probs = vector ? classes.map((k) => ({ label: className(k), v: y.get(k), mark: k === D.label })) : [], best = vector ? probs.reduce((a, e, k) => (e.v > probs[a].v ? k : a), 0) : 0;
    return [
      D.label === undefined ? p("The prediction, the target, and how far they are apart.") : p("The network says ", b(className(best)), ` (${fmt(y.get(best))}); the label says `, b(className(D.label)), ` (${fmt(y.get(D.label))}).`),
      row(h("figure", { className: "map" }, h("figcaption", {}, `Image ${D.image} of the batch`), photo(190)), vector ? bars("Prediction (framed: the label)", probs) : null),
      worked(steps, "The loss"),
      batchLosses(), softmaxLab(),
    ];
  },
};
function peakOf(H, W, get) {
  let peak = 0;
  for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) { const a = Math.abs(get(i, j)); if (a > peak && a < Infinity) peak = a; }
  return peak;
}
const nanless = (v) => (Number.isNaN(v) ? undefined : v);
function strongestOutput(terms, O) {
  let best = 0, size = -1;
  for (let o = 0; o < O; o++) { const s = terms.reduce((a, t) => a + Math.abs(nanless(t.inner[o].v) ?? 0), 0); if (s > size) { size = s; best = o; } }
  return best;
}
function share(t, test) {
  let hit = 0, all = 0;
  for (const v of t.parts[0].data) { all++; if (test(v)) hit++; }
  return hit / all;
}
function sharesFigure(step, title) {
  if (!step || !step.shares) return null;
  return bars(title || "Share of each image of the batch", step.shares.map((r) => ({ label: r.image < 0 ? "all others" : r.image === D.image ? `image ${r.image} (this one)` : `image ${r.image}`, v: r.v ?? 0, mark: r.image === D.image })));
}
function weightChooser(l, index) {
  // The weights of the layer as a map to choose from: kernel places for a convolution, inputs × outputs for a dense layer.
  const w = T(l, "p/w"), g = T(l, S.d === "u" ? "u/w" : "g/w") || w, keep = (e) => go({ e, c: S.c });
  if (index.length === 4) {
    const [kh, kw, c, o] = index, ins = L[l].in && w.size > 4096 ? L[l].in : [...Array(w.shape[2]).keys()], outs = L[l].out && w.size > 4096 ? L[l].out : [...Array(w.shape[3]).keys()];
    return row(mapFigure({ id: "wc", title: `${S.d === "u" ? "w after" : "dw"} at kernel place (${kh}, ${kw}): input × output channel`, H: ins.length, W: outs.length, get: (i, j) => g.get(kh, kw, ins[i], outs[j]), cur: ins.includes(c) && outs.includes(o) ? [ins.indexOf(c), outs.indexOf(o)] : undefined, pick: (i, j) => keep([kh, kw, ins[i], outs[j]]), most: 300, big: 26, below: ins.length < w.shape[2] || outs.length < w.shape[3] ? `Input channels ${ins.join(", ")}; output channels ${outs.join(", ")}: those in this file.` : "" }),
      S.d === "u" ? grid("The kernel after the step", [...Array(w.shape[0]).keys()].map((a) => [...Array(w.shape[1]).keys()].map((e) => g.get(a, e, c, o))), { id: "wk", cur: [kh, kw], pick: (a, e) => keep([a, e, c, o]), mark: (a, e) => (a === kh && e === kw ? "chosen" : "") }) : null);
  }
  // A dense layer has too many weights for one picture: those near the chosen one.
  const near = (axis, most) => {
    const list = g.parts[0].at[axis] || [...Array(g.shape[axis]).keys()], place = Math.max(0, list.indexOf(index[axis])), from = Math.max(0, Math.min(list.length - most, place - Math.floor(most / 2)));
    return list.slice(from, from + most);
  };
  const ins = near(0, 16), outs = near(1, 24), i = ins.indexOf(index[0]), j = outs.indexOf(index[1]);
  return mapFigure({ id: "wc", title: S.d === "u" ? "w after" : "dw", H: ins.length, W: outs.length, get: (a, e) => g.get(ins[a], outs[e]), cur: i >= 0 && j >= 0 ? [i, j] : undefined, pick: (a, e) => keep([ins[a], outs[e]]), most: 480, big: 20, below: `Rows: inputs ${ins[0]} to ${ins[ins.length - 1]} of ${g.shape[0]}; columns: outputs ${outs[0]} to ${outs[outs.length - 1]} of ${g.shape[1]}${g.whole ? "" : ", as far as they are in this file"}.` });
}
function batchLosses() {
  const t = tensor(D.losses);
  if (t.rank !== 1 || N > 64) return null;
  return h("details", {}, h("summary", {}, `The ${N} losses of the batch`), bars("Loss of each image", [...Array(N).keys()].map((n) => ({ label: n === D.image ? `image ${n} (this one)` : `image ${n}`, v: t.get(n), mark: n === D.image }))));
}
function logitsNow() {
  for (let l = LOSS - 1; l >= 0; l--) if (L[l].act && L[l].act.name === "softmax" && T(l, "z").rank === 1) return rowOf(T(l, "z"), [0]);
  return D.loss_function && D.loss_function.config.from_logits && T(LOSS - 1, "y").rank === 1 ? rowOf(T(LOSS - 1, "y"), [0]) : null;
}
function softmaxPart(l, index) {
  if (T(l, "z").rank !== 1) return null;
  const z = rowOf(T(l, "z"), index), s = softmaxOf(z), k = index[0];
  return [table(["class", "logit z", "z − max", "exp", "p = exp / sum"], z.slice(0, 40).map((v, i) => ({ mark: i === k, cells: [className(i), v, v - s.max, s.exp[i], s.p[i]] })), { caption: `Softmax: the largest logit, ${fmt(s.max)}, is taken off first; the sum of the exponentials is ${fmt(s.sum)}` }), softmaxLab()];
}
function softmaxLab() {
  // Sliders for shift and scale: shifting changes nothing, scaling sharpens, and without the maximum taken off exp overflows.
  const z = logitsNow();
  if (!z || z.length > 40) return null;
  const box = h("div"), knobs = { shift: 0, scale: 1 }, f32 = Math.fround;
  const show = () => {
    const moved = z.map((v) => v * knobs.scale + knobs.shift), s = softmaxOf(moved), naive = moved.map((v) => f32(Math.exp(v))), sum = naive.reduce((a, e) => f32(a + e), 0), broken = !Number.isFinite(sum) || sum === 0;
    box.replaceChildren(
      table(["class", "logit", "p, maximum taken off", "exp(z) in float32", "p, naive"], moved.map((v, i) => ({ mark: i === D.label, cells: [className(i), v, s.p[i], naive[i], f32(naive[i] / sum)] }))),
      note(broken ? "The naive form has failed: exp overflows float32 above 88.7 (and is 0 far below), and ∞/∞ is not a number. With the maximum taken off first, nothing happens at all." : knobs.shift ? "A shift of all logits changes no probability." : knobs.scale > 1 ? "Larger logits: the same order, but a surer network." : knobs.scale < 1 ? "Smaller logits: the probabilities come closer together." : "Move the sliders: a shift changes nothing, until the naive form overflows."));
  };
  const slider = (label, key, min, max, step) => { const out = h("output", {}, fmt(knobs[key])); return h("label", { className: "slider" }, label, h("input", { type: "range", min, max, step, value: knobs[key], oninput: (e) => { knobs[key] = Number(e.target.value); out.textContent = fmt(knobs[key]); show(); } }), out); };
  show();
  return h("details", { open: true }, h("summary", {}, "Try it: shift and scale the logits"), slider("shift", "shift", -150, 150, 5), slider("scale", "scale", 0, 5, 0.1), box);
}
function ticks(low, high) {
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((k) => k * unit >= rough) * unit, list = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) list.push(Number((k * step).toPrecision(6)));
  return list;
}
// A line chart on white paper. series: {name, color, dash, points: [[x, y]]}.
function chart(title, series, o = {}) {
  const width = Math.min(620, document.documentElement.clientWidth - 64), height = 230, pad = [14, 12, 34, 58];
  const all = series.flatMap((s) => s.points), xs = all.map((q) => q[0]), ys = all.map((q) => q[1]).filter(Number.isFinite);
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys, ...(o.zero ? [0] : [])), Math.max(...ys, ...(o.zero ? [0] : []))];
  if (x0 === x1) x1 = x0 + 1;
  if (!(y1 > y0)) { y0 -= 1; y1 += 1; }
  const X = (v) => pad[3] + (v - x0) / (x1 - x0) * (width - pad[3] - pad[1]), Y = (v) => height - pad[2] - (v - y0) / (y1 - y0) * (height - pad[0] - pad[2]);
  const draw = (g) => {
    g.fillStyle = "#fff"; g.fillRect(0, 0, width, height);
    g.font = "11px system-ui, sans-serif"; g.fillStyle = "#454b55"; g.strokeStyle = "#e3e5ea"; g.lineWidth = 1;
    for (const v of ticks(y0, y1)) {
      g.beginPath(); g.moveTo(pad[3], Y(v)); g.lineTo(width - pad[1], Y(v)); g.stroke();
      g.textAlign = "right"; g.textBaseline = "middle"; g.fillText(fmt(v), pad[3] - 6, Y(v));
    }
    for (const u of ticks(x0, x1)) { g.textAlign = "center"; g.textBaseline = "top"; g.fillText(fmt(u), X(u), height - pad[2] + 6); }
    if (o.zero) { g.strokeStyle = "#9aa0aa"; g.beginPath(); g.moveTo(pad[3], Y(0)); g.lineTo(width - pad[1], Y(0)); g.stroke(); }
    g.textAlign = "right"; g.textBaseline = "bottom"; g.fillText(o.x || "", width - pad[1], height - 3);
    series.forEach((s, n) => {
      g.strokeStyle = s.color; g.lineWidth = 2; g.setLineDash(s.dash ? [5, 4] : []); g.beginPath();
      s.points.filter((q) => Number.isFinite(q[1])).forEach((q, k) => (k ? g.lineTo(X(q[0]), Y(q[1])) : g.moveTo(X(q[0]), Y(q[1]))));
      g.stroke(); g.setLineDash([]);
      if (series.length > 1) { g.fillStyle = s.color; g.textAlign = "right"; g.textBaseline = "top"; g.fillText((s.dash ? "- - " : "— ") + s.name, width - pad[1] - 4, pad[0] + 14 * n); }
    });
    if (o.mark && Number.isFinite(o.mark[1])) { g.fillStyle = SECOND; g.beginPath(); g.arc(X(o.mark[0]), Y(o.mark[1]), 4.5, 0, 7); g.fill(); }
  };
  const ends = series.map((s) => `${s.name}: from ${fmt(s.points[0][1])} to ${fmt(s.points[s.points.length - 1][1])}`).join("; ");
  return h("figure", { className: "chart" }, h("figcaption", {}, title), canvas(width, height, draw, { role: "img", "aria-label": `${title}. ${ends}.` }));
}

function panelOf(l, d, v) {
  if (l === LOSS) return panels.loss(l, d);
  if (d === "u") return v === "check" ? panels.check(l) : v === "step" ? panels.update(l) : panels.none(l);
  const kind = L[l].kind, g = v.startsWith("g:") ? v.slice(2) : null;
  if (kind === "Conv2D") return g === "w" ? panels.conv_gw(l) : g ? panels.conv_gb(l) : panels["conv_" + v](l);
  if (kind === "Dense") return g ? panels.dense_gw(l, g) : panels["dense_" + v](l);
  if (kind === "BatchNormalization") return g ? panels.bn_g(l, g) : panels["bn_" + v](l);
  if (L[l].act && T(l, "z")) return panels.act(l, d);
  if (kind === "MaxPooling2D" || kind === "AveragePooling2D") return panels.pool(l, d);
  return { GlobalAveragePooling2D: panels.gap, Flatten: panels.flatten, Dropout: panels.dropout }[kind]?.(l, d) ?? panels.plain(l, d);
}

