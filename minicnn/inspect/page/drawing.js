// Drawing: elements, maps of numbers, tables, bars, charts, and the worked sum.

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
const row = (...children) => h("div", { className: "row" }, ...children);
const note = (...children) => h("p", { className: "note" }, ...children);
const op = (text) => h("span", { className: "op", "aria-hidden": text === "→" || text === "←" ? "true"
  : undefined }, text);
const details = (title, ...children) => h("details", {}, h("summary", {}, title), ...children);

let keepFocus = null;
function button(text, act, o = {}) {
  const id = o.id || text, pressed = o.pressed === undefined ? undefined : String(o.pressed);
  const onclick = () => {
    keepFocus = id;
    act();
  };
  return h("button", { type: "button", "data-fid": id, onclick, "aria-pressed": pressed, disabled: o.disabled,
    className: o.className, title: o.title, "aria-label": o.label }, text);
}
const choices = (label, ...buttons) => h("div", { className: "choices", role: "group", "aria-label": label },
  ...buttons);
function say(text) {
  const live = document.getElementById("live");
  if (live.textContent !== text) live.textContent = text;
}

// ---- colour: white is zero; blue above, orange below. The root makes small numbers visible, in the legend too -------

const POS = [24, 93, 170], NEG = [205, 84, 27], SHAPE = 0.7, ACCENT = "#0b8f6f", SECOND = "#a020a0",
  MISSING = "#d5d7dc";
function shade(v, peak) {
  const t = peak > 0 ? Math.min(1, Math.abs(v) / peak) ** SHAPE : 0, end = v < 0 ? NEG : POS;
  return { t, css: `rgb(${end.map((e) => Math.round(255 + (e - 255) * t)).join(",")})` };
}
const ink = (t) => (t > 0.6 ? "#fff" : "#16181c");
const density = () => Math.min(3, window.devicePixelRatio || 1);
function canvas(width, height, draw, props) {
  const pixels = (v) => Math.max(1, Math.round(v * density()));
  const node = h("canvas", { width: pixels(width), height: pixels(height), ...props });
  node.style.width = width + "px";
  node.style.height = height + "px";
  const g = node.getContext("2d");
  g.scale(density(), density());
  draw(g);
  return node;
}
function fill(g, colour, ...box) {
  g.fillStyle = colour;
  g.fillRect(...box);
}
function line(g, x0, y0, x1, y1) {
  g.beginPath();
  g.moveTo(x0, y0);
  g.lineTo(x1, y1);
  g.stroke();
}

function legend(peak, more) {
  const draw = (g) => {
    for (let i = 0; i < 120; i++) fill(g, shade((i - 59.5) / 59.5, 1).css, i, 0, 1, 10);
    for (let i = 4; i < 56; i += 8) fill(g, "rgba(0,0,0,.55)", i, 4.5, 4, 1);
  };
  const label = `scale from ${fmt(-peak)} (orange, with a minus) over 0 (white) to ${fmt(peak)} (blue)`;
  return h("div", { className: "legend" }, h("span", {}, fmt(-peak)),
    canvas(120, 10, draw, { role: "img", "aria-label": label }),
    h("span", {}, fmt(peak)), h("span", { className: "zero" }, "0 is white" + (more ? "; " + more : "")));
}
function peakOf(H, W, get) {
  let peak = 0;
  for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) {
    const a = Math.abs(get(i, j));
    if (a > peak && a < Infinity) peak = a;
  }
  return peak;
}

// ---- a map of numbers ---------------------------------------------------------------------------------------------

// o: {id, title, H, W, get, cur, boxes, pick, pads, peak, most, big, note, below, dead}. get gives undefined for a
// number that is not in the file, null for a place that is none. boxes: {i, j, h, w, color, dash, thin}. dead: which
// are hatched.
function mapFigure(o) {
  const pads = o.pads || [[0, 0], [0, 0]], [[top, bottom], [left, right]] = pads;
  const rows = o.H + top + bottom, cols = o.W + left + right;
  const most = Math.min(o.most || 330, Math.max(200, document.documentElement.clientWidth - 72));
  const fitting = Math.floor(Math.min(most / cols, Math.max(420, o.most || 0) / rows));
  const s = Math.max(1, Math.min(o.big || 40, fitting || 1)), peak = o.peak ?? peakOf(o.H, o.W, o.get);
  const look = { ...o, s, peak, rows, cols, top, bottom, left, right };
  const value = o.cur ? `${o.cur.join(", ")}: ${fmt(o.get(...o.cur))}` : "";
  const node = canvas(cols * s, rows * s, (g) => drawMap(g, look), {
    role: o.pick ? "application" : "img", tabIndex: o.pick ? 0 : -1, "data-fid": o.id,
      "aria-roledescription": "map of numbers",
    "aria-label": `${o.title}, ${o.H} by ${o.W}. ${value} ${o.pick ? "Arrow keys choose another number." : ""}`,
  });
  if (o.pick) makePickable(node, look);
  return h("figure", { className: "map", css: { maxWidth: Math.max(cols * s, 250) + 2 + "px" } },
    h("figcaption", {}, o.title), node,
    legend(peak, o.note), o.below ? h("p", { className: "hint" }, o.below) : null);
}
function drawMap(g, o) {
  const { s, H, W, top, left, rows, cols } = o, font = `${Math.min(12, s / 3.4)}px system-ui, sans-serif`;
  fill(g, "#fff", 0, 0, cols * s, rows * s);
  g.font = font;
  const written = (v) => typeof v !== "number" || g.measureText(tiny(v)).width <= s - 3;
  const fits = s >= 26 && range(H * W).every((k) => written(o.get(Math.floor(k / W), k % W))); // all numbers, or none
  for (let r = 0; r < rows; r++) for (let q = 0; q < cols; q++) {
    const i = r - top, j = q - left, X = q * s, Y = r * s;
    if (i < 0 || j < 0 || i >= H || j >= W) {
      fill(g, "#e9e9ee", X, Y, s, s);
      if (s >= 8) fill(g, "#9a9aa6", X + s / 2 - 1, Y + s / 2 - 1, 2, 2);
    } else drawCell(g, o, i, j, X, Y, fits);
  }
  if (s >= 14) {
    g.strokeStyle = "rgba(0,0,0,.09)";
    g.lineWidth = 1;
    for (let r = 0; r <= rows; r++) line(g, 0, r * s, cols * s, r * s);
    for (let q = 0; q <= cols; q++) line(g, q * s, 0, q * s, rows * s);
  }
  if (rows > H || cols > W) {
    g.strokeStyle = "#8a8d96";
    g.lineWidth = 1;
    g.strokeRect(left * s + 0.5, top * s + 0.5, W * s - 1, H * s - 1);
  }
  for (const box of [...(o.boxes || []), ...(o.cur ? [{ i: o.cur[0], j: o.cur[1] }] : [])]) {
    const place = [(box.j + left) * s, (box.i + top) * s, (box.w || 1) * s, (box.h || 1) * s];
    g.lineWidth = 4;
    g.strokeStyle = "rgba(255,255,255,.9)";
    g.strokeRect(...place);
    g.lineWidth = box.thin ? 1.4 : 2.2;
    g.setLineDash(box.dash ? [4, 3] : []);
    g.strokeStyle = box.color || ACCENT;
    g.strokeRect(...place);
    g.setLineDash([]);
  }
}
function drawCell(g, o, i, j, X, Y, fits) {
  const v = o.get(i, j), s = o.s;
  if (v === null) return;
  if (v === undefined) {
    fill(g, MISSING, X, Y, s, s);
    if (s >= 3) fill(g, "#b9bcc4", X, Y + Math.floor(s / 2), s, 1);
    return;
  }
  const c = Number.isFinite(v) ? shade(v, o.peak) : { t: 1, css: "#000" };
  fill(g, c.css, X, Y, s, s);
  if (fits || s >= 32) {
    g.fillStyle = ink(c.t);
    g.textAlign = "center";
    g.textBaseline = "middle";
    if (fits || v < 0) g.fillText(fits ? tiny(v) : "−", X + s / 2, Y + s / 2);
  } else if (v < 0 && s >= 6 && c.t > 0.12) {
    const colour = c.t > 0.6 ? "rgba(255,255,255,.85)" : "rgba(120,40,0,.75)";
    fill(g, colour, X + s * 0.28, Y + s / 2 - 0.6, s * 0.44, Math.max(1.2, s / 12));
  }
  if (o.dead && o.dead(i, j)) {
    fill(g, "rgba(90,94,102,.32)", X, Y, s, s);
    g.strokeStyle = "rgba(60,60,70,.6)";
    g.lineWidth = 1;
    line(g, X, Y + s, X + s, Y);
  }
}
function makePickable(node, o) {
  const take = (i, j) => {
    if (i < 0 || j < 0 || i >= o.H || j >= o.W || o.get(i, j) === null) return;
    keepFocus = o.id;
    o.pick(i, j);
  };
  node.addEventListener("click", (e) => {
    const box = node.getBoundingClientRect();
    const i = Math.floor((e.clientY - box.top) / box.height * o.rows),
      j = Math.floor((e.clientX - box.left) / box.width * o.cols);
    take(i - o.top, j - o.left);
  });
  node.addEventListener("keydown", (e) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
    if (!move || e.altKey || e.ctrlKey || e.metaKey) return;
    e.preventDefault();
    const [i, j] = o.cur || [0, 0], inside = (v, size) => Math.min(size - 1, Math.max(0, v));
    take(inside(i + move[0], o.H), inside(j + move[1], o.W));
  });
}

// How a tensor of any rank lies in a plane, with the element `index` in it.
function plane(t, index) {
  const last = index[index.length - 1], [H, W] = t.shape;
  if (t.rank === 3) {
    return { H, W, get: (i, j) => t.get(i, j, last), cur: index.slice(0, 2), index: (i, j) => [i, j, last] };
  }
  if (t.rank === 2) return { H, W, get: (i, j) => t.get(i, j), cur: index, index: (i, j) => [i, j] };
  const n = t.size, wide = n <= 12 ? n : n <= 64 ? 16 : n <= 1024 ? 32 : 64;
  const f = t.rank === 1 ? last : flatOf(index, t.shape);
  return {
    H: Math.ceil(n / wide), W: wide, ...(n <= 12 ? { big: 58, most: 600 } : {}), cur: [Math.floor(f / wide), f % wide],
    get: (i, j) => (i * wide + j < n ? t.at(i * wide + j) : null), index: (i, j) => unflat(i * wide + j, t.shape),
  };
}
function tensorFigure(id, title, t, index, pick, more) {
  const { index: place, ...view } = plane(t, index);
  return mapFigure({ id, title, pick: pick && ((i, j) => pick(place(i, j))), ...more, ...view,
    ...(more && "cur" in more ? { cur: more.cur } : {}) });
}

// ---- tables, bars, charts -----------------------------------------------------------------------------------------

function cell(v, peak, props) {
  const node = h("td", props || {}, v === undefined ? "?" : typeof v === "string" ? v : fmt(v));
  if (typeof v === "number") {
    const c = shade(v, peak);
    node.style.backgroundColor = c.css;
    node.style.color = ink(c.t);
    if (v < 0) node.classList.add("neg");
  }
  return node;
}
// A small table of numbers in their colours. o: {peak, id, pick, cur, mark}.
function grid(title, rows, o = {}) {
  const numbers = rows.flat().filter((v) => typeof v === "number" && Number.isFinite(v));
  const peak = o.peak ?? Math.max(0, ...numbers.map(Math.abs));
  const one = (v, i, j) => {
    const td = cell(v, peak, { className: (o.mark && o.mark(i, j)) || "" });
    if (o.pick) {
      const pressed = Boolean(o.cur && o.cur[0] === i && o.cur[1] === j);
      td.replaceChildren(button(v === undefined ? "?" : fmt(v), () => o.pick(i, j),
        { id: `${o.id}${i},${j}`, pressed }));
    }
    return td;
  };
  const body = rows.map((cells, i) => h("tr", {}, cells.map((v, j) => one(v, i, j))));
  return h("figure", { className: "grid" }, h("figcaption", {}, title),
    h("div", { className: "scroll" }, h("table", {}, h("tbody", {}, body))), legend(peak));
}
const kernelGrid = (title, [KH, KW], get, o) => grid(title, range(KH).map((i) => range(KW).map((j) => get(i, j))), o);
function table(head, rows, o = {}) {
  const text = (v) => (typeof v === "number" ? fmt(v) : v ?? "?");
  const cells = (v, k) => (k === 0 ? h("th", { scope: "row" }, text(v))
    : h("td", { className: typeof v === "number" ? "n" : "" }, text(v)));
  const body = rows.map((row) => h("tr", { className: row.mark ? "mark" : "" }, (row.cells || row).map(cells)));
  return h("div", { className: "scroll", tabIndex: 0 }, h("table", { className: "list" },
    o.caption ? h("caption", {}, o.caption) : null,
    h("thead", {}, h("tr", {}, head.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, body)));
}
// rows: {label, v, mark}. Zero is in the middle if anything is negative.
function bars(title, rows, o = {}) {
  const peak = Math.max(1e-300, ...rows.map((r) => Math.abs(r.v) || 0)), both = rows.some((r) => r.v < 0);
  const one = (r) => {
    const bar = h("span", { className: "bar" + (r.v < 0 ? " neg" : "") }),
      share = Math.abs(r.v || 0) / peak * (both ? 50 : 100);
    bar.style.width = share + "%";
    bar.style.marginLeft = (both ? (r.v < 0 ? 50 - share : 50) : 0) + "%";
    return h("tr", { className: r.mark ? "mark" : "" }, h("th", { scope: "row" }, r.label),
      h("td", { className: "track" + (both ? " both" : "") }, bar), h("td", { className: "n" }, fmt(r.v)));
  };
  return h("figure", { className: "bars" }, h("figcaption", {}, title), h("table", {}, h("tbody", {}, rows.map(one))),
    h("p", { className: "hint" }, `Longest bar: ${fmt(peak)}.` + (o.hint ? " " + o.hint : "")));
}
function sharesFigure(step, title) {
  if (!step || !step.shares || !step.shares.length) return null;
  const label = (r) => (r.image < 0 ? "all others" : r.image === D.image ? `image ${r.image} (this one)`
    : `image ${r.image}`);
  return bars(title || "Share of each image of the batch",
    step.shares.map((r) => ({ label: label(r), v: r.v ?? 0, mark: r.image === D.image })));
}
function ticks(low, high) {
  const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((k) => k * unit >= rough) * unit, list = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) list.push(Number((k * step).toPrecision(6)));
  return list;
}
// A line chart on white paper. series: {name, color, dash, points: [[x, y]]}. o: {x, zero, mark}.
function chart(title, series, o = {}) {
  const width = Math.min(620, document.documentElement.clientWidth - 64), height = 230,
    pad = [series.length > 1 ? 26 : 14, 12, 34, 58];
  const all = series.flatMap((s) => s.points), xs = all.map((q) => q[0]),
    ys = all.map((q) => q[1]).filter(Number.isFinite);
  const base = o.zero ? [0] : [];
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys, ...base), Math.max(...ys, ...base)];
  if (x0 === x1) x1 = x0 + 1;
  if (!(y1 > y0)) [y0, y1] = [y0 - 1, y1 + 1];
  const X = (v) => pad[3] + (v - x0) / (x1 - x0) * (width - pad[3] - pad[1]);
  const Y = (v) => height - pad[2] - (v - y0) / (y1 - y0) * (height - pad[0] - pad[2]);
  const write = (g, text, x, y, align, baseline) => {
    g.textAlign = align;
    g.textBaseline = baseline;
    g.fillText(text, x, y);
  };
  const draw = (g) => {
    fill(g, "#fff", 0, 0, width, height);
    g.font = "11px system-ui, sans-serif";
    g.fillStyle = "#454b55";
    g.strokeStyle = "#e3e5ea";
    g.lineWidth = 1;
    for (const v of ticks(y0, y1)) {
      line(g, pad[3], Y(v), width - pad[1], Y(v));
      write(g, fmt(v), pad[3] - 6, Y(v), "right", "middle");
    }
    for (const u of ticks(x0, x1)) write(g, fmt(u), X(u), height - pad[2] + 6, "center", "top");
    g.strokeStyle = "#9aa0aa";
    if (o.zero) line(g, pad[3], Y(0), width - pad[1], Y(0));
    write(g, o.x || "", width - pad[1], height - 3, "right", "bottom");
    series.forEach((s, n) => {
      g.strokeStyle = s.color;
      g.lineWidth = 2;
      g.setLineDash(s.dash ? [5, 4] : []);
      g.beginPath();
      s.points.filter((q) => Number.isFinite(q[1])).forEach((q, k) => g[k ? "lineTo" : "moveTo"](X(q[0]), Y(q[1])));
      g.stroke();
      g.setLineDash([]);
      g.fillStyle = s.color;
      if (series.length > 1) write(g, (s.dash ? "- - " : "— ") + s.name, pad[3] + 90 * n, 6, "left",
        "top"); // above the plot
    });
    if (!o.mark || !Number.isFinite(o.mark[1])) return;
    g.fillStyle = SECOND;
    g.beginPath();
    g.arc(X(o.mark[0]), Y(o.mark[1]), 4.5, 0, 7);
    g.fill();
  };
  const ends = series.map((s) => `${s.name}: from ${fmt(s.points[0][1])} to ` +
    `${fmt(s.points[s.points.length - 1][1])}`).join("; ");
  return h("figure", { className: "chart" }, h("figcaption", {}, title),
    canvas(width, height, draw, { role: "img", "aria-label": `${title}. ${ends}.` }));
}

// ---- the worked sum -----------------------------------------------------------------------------------------------

function badge(step) {
  const verdict = judge(step), mark = (kind, text) => h("span", { className: "badge " + kind }, text);
  if (step.given) return mark("none", "given");
  if (step.law !== undefined) return mark(verdict, verdict === "ok" ? `✓ ${step.lawText}` : `✗ not ${step.lawText}`);
  if (verdict === "ok") return mark("ok", "✓ as recorded");
  if (verdict === "bad") return mark("bad", `✗ recorded: ${fmt(step.rec)}`);
  return mark("none", step.rec === undefined ? "nothing recorded to compare with"
    : `recorded ${fmt(step.rec)}; its operands are not in this file`);
}
function worked(steps, title) {
  if (!steps.length) return null;
  const verdicts = { ok: "Recomputed equals recorded.", bad: "Recomputed differs from recorded!", none: "" };
  say(steps.map((s) => `${s.name} is ${fmt(s.value ?? s.rec)}, from ${s.text}. ${verdicts[judge(s)]}`).join(" "));
  const part = (kind, text) => h("span", { className: kind }, text);
  return h("section", { className: "worked", "aria-label": "Worked sum" }, h("h3", {}, title || "The sum"),
    h("ol", {}, steps.map((s) => h("li", {},
      h("div", { className: "line" }, part("name", s.name), part("eq", "="), part("text", s.text), part("eq", "="),
        h("output", {}, fmt(s.value ?? s.rec)), badge(s)),
      s.note ? h("p", { className: "hint" }, s.note) : null))));
}

// ---- small pictures -----------------------------------------------------------------------------------------------

// One map, or four of them in a square; a vector as a square of cells. t: a tensor, or what has its shape, get and at.
function thumb(t, list, size) {
  const mapsOf = (g) => {
    const n = list.length > 1 ? 2 : 1, part = size / n, [H, W] = t.shape;
    list.slice(0, n * n).forEach((c, q) => {
      const peak = peakOf(H, W, (i, j) => t.get(i, j, c)), X = (q % n) * part, Y = Math.floor(q / n) * part;
      for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) {
        const v = t.get(i, j, c);
        fill(g, v === undefined ? MISSING : shade(v, peak).css, X + j * part / W, Y + i * part / H, part / W + 0.3,
          part / H + 0.3);
      }
      if (n === 1) return;
      g.strokeStyle = "#fff";
      g.lineWidth = 2;
      g.strokeRect(X, Y, part, part);
    });
  };
  const vector = (g) => {
    const n = t.size, wide = Math.ceil(Math.sqrt(n)), s = size / wide, peak = t.largest();
    for (let f = 0; f < n; f++) {
      const v = t.at(f), colour = v === undefined ? MISSING : shade(v, peak).css;
      fill(g, colour, (f % wide) * s, Math.floor(f / wide) * s, s + 0.3, s + 0.3);
    }
  };
  return canvas(size, size, (g) => {
    fill(g, "#fff", 0, 0, size, size);
    (t.rank === 3 ? mapsOf : vector)(g);
  }, { "aria-hidden": "true" });
}
// The input as a picture: in its colours if it has three channels, else as ink on white paper. box: a frame on it.
function photo(size, box) {
  const x = picture();
  if (x.rank !== 3) return thumb(x, [0], size);
  const [H, W, C] = x.shape, s = size / Math.max(H, W);
  let low = 0, high = 0;
  for (const part of x.parts) for (const v of part.data) [low, high] = [Math.min(low, v), Math.max(high, v)];
  return canvas(W * s, H * s, (g) => {
    for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) {
      const level = (c) => Math.round(255 * ((x.get(i, j, c) ?? 0) - low) / (high - low || 1)), grey = 255 - level(0);
      fill(g, C === 3 ? `rgb(${level(0)},${level(1)},${level(2)})` : `rgb(${grey},${grey},${grey})`, j * s, i * s,
        s + 0.4, s + 0.4);
    }
    if (!box) return;
    g.strokeStyle = ACCENT;
    g.lineWidth = 2.5;
    g.strokeRect(box.j * s, box.i * s, box.w * s, box.h * s);
  }, { role: "img", "aria-label": "the input image", className: "photo" });
}

