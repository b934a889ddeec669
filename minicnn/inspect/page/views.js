// The views: one for each kind of layer and direction. Each shows one chosen number, how it came about, and its
// surroundings. Everything that can be looked at has an address, which is the state S.

const DIRECTIONS = { f: "Forward", b: "Backward", u: "Update" };
// l: layer, d: direction, v: view, e: index of the chosen number, w: stop of the walk (0: none); c, k, q: what else can
// be chosen in a view (a channel, a place in a list, a pixel); bug: whether a famous one is shown.
const NOWHERE = { l: 0, d: "f", v: "", e: null, c: null, k: 0, q: null, w: 0, bug: 0 };
let S = { ...NOWHERE };
const lastLayer = () => (D.losses === undefined ? LOSS - 1 : LOSS);
function readHash() {
  const found = {};
  for (const part of location.hash.slice(1).split("&")) {
    const [k, v] = part.split("=");
    if (v !== undefined) found[k] = decodeURIComponent(v);
  }
  const ints = (text) => (text && /^\d+(,\d+)*$/.test(text) ? text.split(",").map(Number) : null);
  const one = (text) => (/^\d+$/.test(text || "") ? Number(text) : 0);
  const state = {
    l: found.l === "-1" ? INPUT : Math.min(one(found.l), lastLayer()), d: DIRECTIONS[found.d] ? found.d : "f",
      v: found.v || "",
    e: ints(found.e), c: found.c === undefined ? null : one(found.c), k: one(found.k), q: ints(found.q),
      w: one(found.w),
    bug: one(found.bug),
  };
  const stop = STOPS[state.w - 1]?.state, same = stop && ["l", "d", "v"].every((key) => stop[key] === state[key]);
  return same && state.e?.length === stop.e?.length ? state : { ...state, w: 0 };
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
  try {
    history.replaceState(null, "", "#" + parts.join("&"));
  } catch { /* inside a frame without an address */ }
}
// Look at something else. In another view, layer or direction the walk is left.
function go(change) {
  const moved = ["l", "d", "v"].some((key) => key in change && change[key] !== S[key]);
  S = { ...S, ...(moved ? { e: null, q: null, c: null, k: 0, v: "", bug: 0, w: 0 } : {}), ...change };
  writeHash();
  render();
}

// The element in view. Its default is the largest number (or that of the best score) that can be worked out here.
const defaults = new Map();
function chosen(l, what, t, choice, score) {
  if (S.e && S.e.length === t.rank && S.e.every((v, k) => v < t.shape[k])) return S.e;
  const key = l + what;
  if (!defaults.has(key)) defaults.set(key, best(l, what, t, choice, score));
  return defaults.get(key);
}
function best(l, what, t, choice, score = (index) => Math.abs(t.get(...index))) {
  const list = [...centre(t, choice), ...sample(t, 100, choice)].slice(0, 240);
  let found = null, size = -Infinity;
  for (const index of list) {
    const v = score(index);
    if (!(v > size && Number.isFinite(v)) || explain(l, what, index).some((s) => judge(s) === "none")) continue;
    [found, size] = [index, v];
  }
  return found || list[0] || t.shape.map(() => 0);
}
// The index as number fields, so that every element can be reached without a pointer.
function picker(t, index, names, choice) {
  const change = (k, text) => {
    const n = Math.round(Number(text));
    if (!(n >= 0 && n < t.shape[k])) return;
    keepFocus = "pick" + k;
    go({ e: index.map((u, i) => (i === k ? n : u)), c: S.d === "u" ? S.c : null });
  };
  const fields = index.map((v, k) => h("label", {}, names[k] || `axis ${k}`, h("input", {
    type: "number", min: 0, max: t.shape[k] - 1, value: v, "data-fid": "pick" + k,
      onchange: (e) => change(k, e.target.value),
  })));
  const partly = choice && choice.length < t.shape[t.rank - 1];
  const some = partly && `${choice.slice(0, 16).join(", ")}${choice.length > 16 ? ", …" : ""}`;
  return h("div", { className: "picker", role: "group", "aria-label": "Index of the chosen number" }, fields,
    partly ? h("span", { className: "hint" }, `Weights are in this file for ${choice.length} of ` +
      `${t.shape[t.rank - 1]}: ${some}`) : null);
}
const axes = (t) => (t.rank === 3 ? ["row", "column", "channel"] : t.rank === 1 ? ["number"]
  : t.shape.map((_, k) => "axis " + k));
const weightAxes = (t, l) => (t.rank === 4 ? ["kernel row", "kernel column", ...({
  Conv2DTranspose: ["output channel", "input channel"], DepthwiseConv2D: ["channel", "kernel of the channel"],
}[L[l].kind] || ["input channel", "output channel"])]
  : t.rank === 2 ? ["input", "output"] : ["number"]);
// Small maps to choose a channel by.
function channels(t, index, choice, label = "channel") {
  if (t.rank !== 3) return null;
  const shown = (choice || range(t.shape[2])).slice(0, 32);
  if (shown.length < 2) return null;
  const one = (c) => h("button", {
    type: "button", "data-fid": "ch" + c, "aria-pressed": String(c === index[2]), "aria-label": `${label} ${c}`,
    onclick: () => {
      keepFocus = "ch" + c;
      go({ e: [index[0], index[1], c] });
    },
  }, thumb(t, [c], 40), h("span", {}, c));
  return h("div", { className: "channels", role: "group", "aria-label": "Choose a " + label }, shown.map(one));
}
const given = (name, text, value) => ({ name, text, value, given: true });
const nanless = (v) => (Number.isNaN(v) ? undefined : v);
function share(t, test) {
  let hit = 0;
  for (const v of t.parts[0].data) if (test(v)) hit++;
  return hit / t.parts[0].data.length;
}
const windowBox = (g, oh, ow) => ({ i: start(oh, 0, g), j: start(ow, 1, g), h: (g.k[0] - 1) * g.d[0] + 1,
  w: (g.k[1] - 1) * g.d[1] + 1, color: ACCENT });
const select = (e) => go({ e });

// ---- which views there are ----------------------------------------------------------------------------------------

function viewsOf(l, d) {
  if (l === INPUT) return [["picture", "The numbers"]];
  if (l === LOSS) return [["loss", { f: "Prediction and loss", b: "Where the gradient starts",
    u: "Before and after" }[d]]];
  const kind = L[l].kind, names = learned(l), active = weighty(l) && activation(l) !== "linear";
  if (d === "u") return names.length ? [["step", "The optimizer's step"], ["check", "Gradient check"]]
    : [["none", "Nothing to learn"]];
  const gradients = names.map((n) => ["g:" + n, { w: "dw: one weight", b: "db: one bias" }[n] || "d" + n]);
  const field = fieldSize(l) && L[l].geo ? [["field", "Receptive field"]] : [];
  if (d === "b") {
    const meet = meets(l) && T(l, "dy") ? [["meet", "Gradients meet"]] : [];
    if (merges(l)) return [...meet, ...L[l].inputs.map((_, k) => [`dx/${k}`, `dx${k}`])];
    const dz = active && T(l, "dz") ? [["dz", "dy → dz"]] : [];
    if (kind === "Conv2D") return [...meet, ...dz, ["dx", "dx by col2im"],
      ...(joining(l).all ? [["turned", "dx by the turned kernel"]] : []), ...gradients];
    if (kind === "BatchNormalization") return [...meet, ["dx", "dx in three terms"], ["laws", "Two sums that vanish"],
      ...gradients];
    return [...meet, ...dz, ["dx", "dx"], ...gradients];
  }
  const act = active ? [["act", "z → y"]] : [];
  const fast = kind === "Conv2D" && isWinograd(l) ? [["line", "Winograd F(2, 3)"], ["tile", "Winograd tile"]] : [];
  if (kind === "Conv2D" && joining(l).all) return [["one", "One output"], ...act, ["im2col", "im2col"],
    ["gemm", "Row · column"], ...fast, ...field];
  if (kind === "Conv2DTranspose") return [["one", "One output"], ["stamp", "One stamp"], ...act];
  if (kind === "BatchNormalization") return [["one", "One output"], ["stats", "Statistics"]];
  return [["one", "One output"], ...act, ...field];
}
function viewNow() {
  const list = viewsOf(S.l, S.d).map(([key]) => key);
  return list.includes(S.v) ? S.v : list[0];
}
function panelOf(l, d, v) {
  if (l === INPUT) return panels.picture();
  if (l === LOSS) return { f: panels.loss, b: panels.lossGradient, u: panels.afterwards }[d]();
  if (d === "u") return { check: panels.check, step: panels.update, none: panels.none }[v](l);
  const kind = L[l].kind, name = v.startsWith("g:") ? v.slice(2) : null;
  if (v === "field") return panels.field(l);
  if (v === "meet") return panels.meet(l);
  if (merges(l)) return d === "f" ? panels.mergeForward(l) : panels.mergeBackward(l, Number(v.slice(3)));
  if (v === "act" || v === "dz") return panels.activation(l, d);
  if (weighty(l) && L[l].geo) {
    if (name) return name === "w" ? panels.convWeight(l) : panels.convBias(l);
    if (kind === "Conv2DTranspose") return panels["stamp_" + v](l);
    return panels["conv_" + v](l);
  }
  if (kind === "Dense") return name ? panels.denseParameter(l, name) : panels["dense_" + v](l);
  if (kind === "BatchNormalization") return name ? panels.bnParameter(l, name) : panels["bn_" + v](l);
  if (L[l].act && T(l, "z")) return panels.activation(l, d);
  if (kind === "MaxPooling2D" || kind === "AveragePooling2D") return d === "f" ? panels.poolForward(l)
    : panels.poolBackward(l);
  const own = { GlobalAveragePooling2D: panels.globalAverage, Flatten: panels.flatten, Dropout: panels.dropout }[kind];
  return own ? own(l, d) : panels.plain(l, d);
}

const panels = {
  picture() {
    const x = picture(), index = chosen(INPUT, "x", x, null), [i, j, c] = index, flat = x.rank === 3;
    const span = (v, size) => range(Math.min(7, size)).map((k) => Math.max(0, Math.min(size - 7, v - 3)) + k);
    const rows = flat ? span(i, x.shape[0]) : [], columns = flat ? span(j, x.shape[1]) : [];
    const total = L.reduce((a, q) => a + q.size, 0), label = D.label === undefined ? ""
      : ` Its label: ${className(D.label)}.`;
    return [
      p(`Image ${D.image} of a batch of ${N}: ${times(x.shape)} = ${count(x.size, "number")}.${label} The network ` +
        `has ` +
        `${count(L.length, "layer")} and ${count(total, "parameter")}.`),
      worked(explain(INPUT, "x", index), "One number of the picture"),
      picker(x, index, axes(x)),
      row(photo(250), tensorFigure("x", flat ? `The same as numbers, channel ${c}` : "The numbers", x, index,
        select, { most: 370 }),
        flat ? grid(`Rows ${rows[0]} to ${rows.at(-1)}, columns ${columns[0]} to ${columns.at(-1)}`,
          rows.map((a) => columns.map((e) => x.get(a, e, c))),
            { mark: (a, e) => (rows[a] === i && columns[e] === j ? "chosen" : "") }) : null),
    ];
  },
  field(l) {
    const y = T(l, "y"), index = chosen(l, "field", y, null), [oh, ow] = index, x = picture(), rows = fieldSteps(l);
    const size = fieldSize(l), [[top, bottom], [left, right]] = receptiveField(l, [oh, oh], [ow, ow]);
    const cut = (low, high, size) => [Math.max(0, low), Math.min(size - 1, high)];
    const [i0, i1] = cut(top, bottom, x.shape[0]), [j0, j1] = cut(left, right, x.shape[1]);
    const box = { i: i0, j: j0, h: i1 - i0 + 1, w: j1 - j0 + 1, color: ACCENT };
    const text = ["1", ...rows.map((r) => `(${r.k[0]} − 1)·${r.d[0] > 1 ? `${r.d[0]}·` : ""}${r.jump[0]}`)].join(" + ");
    const sum = rows.reduce((a, r) => a + (r.k[0] - 1) * r.d[0] * r.jump[0], 1);
    const step = { name: "receptive field", value: size[0] };
    const beyond = i1 - i0 + 1 < size[0] || j1 - j0 + 1 < size[1]
      ? " The rest lies beyond the edge, in the padding." : "";
    return [
      p(`The receptive field of an output pixel is the part of the picture on which it depends: ${times(size)} ` +
        `pixels for ${keyOf(l)}. ` +
        "A change outside of it cannot reach this number."),
      worked([sum === size[0] ? { ...step, text, law: sum, lawText: "as the windows say, followed back" }
        : { ...step, text: "the union of what its branches see", given: true }],
        "Each window adds (kernel − 1) · jump"),
      picker(y, index, axes(y)),
      row(h("figure", { className: "map" }, h("figcaption", {}, "The picture"), photo(300, box)),
        tensorFigure("y", `Output of ${keyOf(l)}, channel ${index[2]}`, y, index, select, { most: 300 })),
      p(`Output pixel (${oh}, ${ow}) sees rows ${i0} to ${i1} and columns ${j0} to ${j1} of the picture.${beyond}`),
      table(["layer", "kernel", "jump", "receptive field"],
        rows.map((r) => [keyOf(r.l), times(r.k), times(r.jump), times(r.size)]),
        { caption: "jump: how many pixels of the picture lie between two neighbours, the product of the strides " +
          "before" }),
    ];
  },
  // ---- convolution
  conv_one(l) {
    const x = T(l, "x"), y = T(l, "y"), g = L[l].geo, index = chosen(l, "y", y, L[l].out), [oh, ow, o] = index,
      joined = joining(l), list = joined.seen(o), C = list.length;
    const steps = explain(l, "y", index), terms = steps[0].terms, taps = times(g.k);
    const per = list.map((c) => ({ c, ...total(terms.filter((t) => t.c === c)) }));
    const c = list.includes(S.c) ? S.c : per.reduce((m, q) => (Math.abs(q.sum) > Math.abs(m.sum) ? q : m),
      per[0]).c;
    const part = terms.filter((t) => t.c === c), at = (f) => (i, j) => f(part[i * g.k[1] + j]);
    let running = 0;
    const sums = per.map((q) => {
      running += q.sum;
      const show = button("show", () => go({ e: index, c: q.c }), { id: "c" + q.c, label: `show channel ${q.c}` });
      return { mark: q.c === c, cells: [String(q.c), q.sum, running, show] };
    });
    const padded = g.pads.flat().some(Boolean) ? "dotted cells are padding" : "";
    return [
      joined.deep ? p("A depthwise convolution mixes no channels: each channel of the input has kernels of its own, " +
        `and output channel ${o} is made of input channel ${c} alone. So a layer of ${whole(x.shape[2])} channels ` +
        `takes as many times fewer products as Conv2D; what mixes the channels is a Conv2D of 1×1 behind it.`) : null,
      joined.all || joined.deep ? null : p(`The channels are shared out over ${L[l].config.groups} groups: output ` +
        `channel ${o} sees the channels ${list[0]} to ${list.at(-1)} only.`),
      p(`An output pixel looks through a window of ${taps} ` +
        `pixels${C > 1 ? `, at ${joined.all ? "all " : ""}${C} channels of the input` : ""}. Each number in it ` +
        `is multiplied by the kernel's weight at that place; the ` +
          `${count(terms.length, "product")}${steps[0].bias === undefined ? "" : " and the bias"} are added up.`),
      worked(steps),
      picker(y, index, axes(y), L[l].out), channels(y, index, L[l].out, "output channel"),
      row(kernelGrid(`The window, channel ${c}`, g.k, at((t) => t.a)), op("×"),
        kernelGrid(`The kernel w[:, :, ${joined.weight(0, 0, c, o).slice(2).join(", ")}]`, g.k, at((t) => t.b)),
        op("="), kernelGrid("Products", g.k, at((t) => t.v)), op(`Σ = ${fmt(per[list.indexOf(c)].sum)}`)),
      row(mapFigure({ id: "x", title: `Input, channel ${c}`, H: x.shape[0], W: x.shape[1],
        get: (i, j) => x.get(i, j, c),
        boxes: [windowBox(g, oh, ow)], pads: g.pads, most: 370, note: padded }), op("→"),
      tensorFigure("y", `Output, channel ${o}`, y, index, select, { most: 370 })),
      C > 1 ? h("details", { open: C <= 16 }, h("summary", {}, `Sum per channel (${C})`),
        table(["channel", "Σ of products", "so far", ""], sums)) : null,
    ];
  },
  conv_im2col(l) {
    const x = T(l, "x"), y = T(l, "y"), g = L[l].geo, index = chosen(l, "y", y, L[l].out), [oh, ow] = index;
    const [H, W, C] = x.shape, [OH, OW] = y.shape, taps = g.k[0] * g.k[1], c = S.c !== null && S.c < C ? S.c : 0,
      r0 = oh * OW + ow;
    const inside = (v, size) => Math.min(size - 1, Math.max(0, v));
    const middle = [inside(start(oh, 0, g) + g.d[0], H), inside(start(ow, 1, g) + g.d[1], W)];
    const q = S.q && S.q[0] < H && S.q[1] < W ? S.q : middle, k = Math.min(S.k, taps - 1),
      kh = Math.floor(k / g.k[1]), kw = k % g.k[1];
    const value = (r, t) => {
      const i = start(Math.floor(r / OW), 0, g) + Math.floor(t / g.k[1]) * g.d[0],
        j = start(r % OW, 1, g) + (t % g.k[1]) * g.d[1];
      return i < 0 || j < 0 || i >= H || j >= W ? 0 : x.get(i, j, c);
    };
    const found = reach(q[0], 0, g, OH).flatMap((a) => reach(q[1], 1, g, OW)
      .map((e) => ({ r: a.o * OW + e.o, t: a.k * g.k[1] + e.k, oh: a.o, ow: e.o })));
    const first = Math.max(0, Math.min(OH * OW - 21, r0 - 10)), rows = Math.min(21, OH * OW), n = copies(l);
    const violet = (cells) => cells.map(([i, j]) => ({ i, j, color: SECOND })), zeros = n.cells - n.copies;
    const change = (step) => go({ e: index, c: (c + C + step) % C, k, q });
    return [
      p("im2col writes every window as one row of a matrix: a row is an output pixel, a column a place in the " +
        "kernel. Then the whole " +
        "convolution is one matrix product."),
      worked(explain(l, "z", index), `Row ${r0}, times the weights`),
      note(`Whole matrix: ${count(OH * OW, "row")} × ${count(taps * C, "column")} for one image. Its ` +
        `${whole(n.cells)} cells are ` +
        `${count(n.copies, "copy", "copies")} of the input's ${count(n.pixels, "number")}, ` +
          `${fmt(n.copies / n.pixels)} of each on average` +
        (zeros ? `, and ${count(zeros, "zero")} of the padding.` : ".")),
      picker(y, index, axes(y)),
      row(mapFigure({ id: "x", title: `Input, channel ${c}`, H, W, get: (i, j) => x.get(i, j, c), pads: g.pads,
        most: 300,
        boxes: [windowBox(g, oh, ow), ...violet([q])], pick: (i, j) => go({ e: index, q: [i, j] }), cur: undefined,
        below: "Choose an input pixel (violet): its copies light up in the matrix." }),
      mapFigure({ id: "m", title: `Matrix, rows ${first} to ${first + rows - 1}`, H: rows, W: taps,
        get: (i, j) => value(first + i, j),
        most: 300, big: 18, cur: [r0 - first, k], below: `Choose a row (green: an output pixel) and a column ` +
          `(dashed). Shown: the columns of channel ${c}.`,
        boxes: [{ i: r0 - first, j: 0, w: taps, h: 1, color: ACCENT },
          { i: 0, j: k, w: 1, h: rows, color: "#555", dash: true, thin: true },
          ...violet(found.filter((s) => s.r >= first && s.r < first + rows).map((s) => [s.r - first, s.t]))],
        pick: (i, j) => go({ e: [Math.floor((first + i) / OW), (first + i) % OW, index[2]], k: j, q }) }),
      mapFigure({ id: "col", title: `Column ${k}: the input, shifted by (${kh}, ${kw})`, H: OH, W: OW,
        get: (i, j) => value(i * OW + j, k),
        most: 300, cur: [oh, ow], boxes: violet(found.filter((s) => s.t === k).map((s) => [s.oh, s.ow])),
        pick: (i, j) => go({ e: [i, j, index[2]], q, k }),
          below: "One column, laid out as an image of output pixels." })),
      p("Output pixel ", b(`(${oh}, ${ow})`), " is row ", b(String(r0)), ` = ${oh} · ${OW} + ${ow}. Input pixel `,
        b(`(${q.join(", ")})`),
        ` stands in the matrix ${count(found.length, "time")}: `,
        found.map((s) => `row ${s.r}, column ${s.t * C + c}`).join("; ") || "never", "."),
      C > 1 ? row(button("previous input channel", () => change(-1)), button("next input channel", () => change(1)))
        : null,
    ];
  },
  conv_gemm(l) {
    const y = T(l, "y"), index = chosen(l, "y", y, L[l].out), steps = explain(l, "z", index),
      { terms, bias } = steps[0], K = terms.length;
    const sums = terms.reduce((list, t) => [...list, list[list.length - 1] + t.v], [0]),
      r = index[0] * y.shape[1] + index[1];
    const k = S.k ? Math.min(S.k, K) : K, box = h("div"), wide = Math.min(12, K), high = Math.ceil(K / wide);
    const show = (k) => {
      const from = Math.max(0, Math.min(K - 9, k - 5)), points = sums.map((v, i) => [i, v]);
      const end = k < K || bias === undefined ? "" : `, plus the bias ${fmt(bias)}: ${fmt(sums[k] + bias)}`;
      const lines = terms.slice(from, from + 9).map((t, i) => ({ mark: from + i + 1 === k,
        cells: [`${from + i + 1}`, `${fmt(t.a)}  ${t.an}`, `${fmt(t.b)}  ${t.bn}`, t.v, sums[from + i + 1]] }));
      box.replaceChildren(
        chart("Running sum of the products", [{ name: "sum", color: ACCENT, points }],
          { mark: [k, sums[k]], x: "products added", zero: true }),
        p("After ", b(String(k)), ` of ${count(K, "product")}: `, b(fmt(sums[k])), end, "."),
        table(["k", "row (input)", "column (weight)", "product", "sum so far"], lines));
    };
    show(k);
    const slide = (e) => {
      S.k = Number(e.target.value);
      writeHash();
      show(S.k);
    };
    const strip = (title, get) => mapFigure({ title, H: high, W: wide,
      get: (i, j) => (i * wide + j < K ? get(terms[i * wide + j]) : null), most: 480, big: 40 });
    return [
      p("All outputs at once: the matrix of im2col (one row for each output pixel) times the kernel as a matrix (one " +
        "column for each output " +
        "channel). One output is one row times one column, number by number."),
      worked(steps, `Row ${r} · column ${index[2]}`),
      picker(y, index, axes(y), L[l].out), channels(y, index, L[l].out, "output channel"),
      row(strip(`Row ${r} of the matrix`, (t) => t.a), strip(`Column ${index[2]} of the weights`, (t) => t.b)),
      h("label", { className: "slider" }, "Products added",
        h("input", { type: "range", min: 0, max: K, value: k, "data-fid": "k", oninput: slide })),
      box,
    ];
  },
  conv_line(l) {
    const y = T(l, "y"), index = chosen(l, "winograd", y, L[l].out), [oh, ow, o] = index, f = winograd(l, index),
      C = T(l, "x").shape[2];
    const c = S.c !== null && S.c < C ? S.c : strongest(f.channels), { d: tile, k: kernel } = f.channels[c],
      d = tile[1], g = kernel[1];
    const line = winogradLine(d, g), direct = (k) => range(3).map((i) =>
      `${bracket(d[k + i])}·${bracket(g[i])}`).join(" + ");
    const part = (n, k, text) => ({ name: n, text, value: line.y[k], law: line.direct[k], mag: 4,
      lawText: "both ways" });
    const m = line.m, i = start(f.top, 0, L[l].geo) + 1, j = start(f.left, 1, L[l].geo);
    return [
      p("Two neighbouring outputs of a kernel with three weights take 6 products. Winograd's F(2, 3) needs 4: some " +
        "sums of the four numbers, " +
        "times sums of the weights. The sums of the weights are the same for all pixels, so they are made once."),
      worked([part("y0", 0, `m0 + m1 + m2 = ${fmt(m[0])} ${signed(m[1])} ${signed(m[2])}`),
        part("y1", 1, `m1 − m2 − m3 = ${fmt(m[1])} ${signed(-m[2])} ${signed(-m[3])}`)],
          "Two outputs from four products"),
      picker(y, index, axes(y), L[l].out),
      row(grid(`Four numbers d: row ${fmt(i)}, columns ${fmt(j)} to ${fmt(j + 3)} of channel ${c}`, [d]),
        grid(`Three weights g: w[1, :, ${c}, ${o}]`, [g])),
      table(["", "6 products, directly", "value"], [["y0", direct(0), line.direct[0]],
        ["y1", direct(1), line.direct[1]]]),
      table(["", "4 products", "of the numbers", "of the weights", "product"], [
        ["m0", "(d0 − d2) · g0", d[0] - d[2], g[0], m[0]],
          ["m1", "(d1 + d2) · (g0 + g1 + g2) / 2", d[1] + d[2], (g[0] + g[1] + g[2]) / 2, m[1]],
        ["m2", "(d2 − d1) · (g0 − g1 + g2) / 2", d[2] - d[1], (g[0] - g[1] + g[2]) / 2, m[2]],
          ["m3", "(d1 − d3) · g2", d[1] - d[3], g[2], m[3]]]),
      note("Why it works: write out m0 + m1 + m2, and what does not belong to d0·g0 + d1·g1 + d2·g2 cancels."),
    ];
  },
  conv_tile(l) {
    const y = T(l, "y"), index = chosen(l, "winograd", y, L[l].out), [oh, ow, o] = index, f = winograd(l, index),
      C = T(l, "x").shape[2];
    const c = S.c !== null && S.c < C ? S.c : strongest(f.channels), { d, k, v, u, m } = f.channels[c], x = T(l, "x");
    const box = { i: start(f.top, 0, L[l].geo), j: start(f.left, 1, L[l].geo), h: 4, w: 4, color: ACCENT };
    const mark = (a, e) => (a === oh - f.top && e === ow - f.left ? "chosen" : "");
    return [
      p(`The same along rows and along columns: a tile of 4×4 pixels and a kernel of 3×3 give 2×2 outputs, with 16 ` +
        `products in place of 36. ` +
        `This tile begins at output pixel (${f.top}, ${f.left}).`),
      worked([winogradStep(l, index)]),
      picker(y, index, axes(y), L[l].out),
      row(grid(`Pixels d, channel ${c}`, d), grid(`Kernel g = w[:, :, ${c}, ${o}]`, k)),
      row(grid("Bᵗ d B", v), op("×"), grid("G g Gᵗ", u), op("="), grid(`16 products, channel ${c}`, m)),
      row(C > 1 ? grid(`Σ over ${C} channels`, f.m) : null, C > 1 ? op("→") : null,
        grid("Aᵗ (…) A: the tile", f.y, { mark }),
        mapFigure({ id: "x", title: `Input, channel ${c}`, H: x.shape[0], W: x.shape[1],
          get: (i, j) => x.get(i, j, c), boxes: [box], pads: L[l].geo.pads, most: 250 }),
        tensorFigure("y", `Output, channel ${o}`, y, index, select, { most: 250 })),
      note("B, G and A hold nothing but 0, ±1 and ±½: the sums of F(2, 3), once for the rows and once for " +
        "the columns. Larger tiles save " +
        "more and round more: see minicnn/kernels/conv_winograd.py."),
    ];
  },
  conv_dx(l) {
    const dx = T(l, "dx"), dz = dzOf(l), index = chosen(l, "dx", dx, L[l].in), [i, j, c] = index, [H, W] = dx.shape,
      outs = joining(l).fed(c), O = outs.length;
    const steps = explain(l, "dx", index), terms = steps[0].terms,
      o = outs.includes(S.c) ? S.c : outs[strongestOutput(terms, O)];
    const k = Math.min(S.k, terms.length - 1), one = terms[k], last = terms[terms.length - 1],
      keep = { e: index, bug: S.bug };
    let running = 0;
    const lines = terms.map((t, n) => {
      running = S.bug ? t.v : running + t.v;
      const show = button("show", () => go({ ...keep, c: S.c, k: n }),
        { id: `k${n}`, label: `show contribution ${n} in full` });
      return { mark: n === k, cells: [`(${t.oh}, ${t.ow})`, `(${t.kh}, ${t.kw})`, t.v, running, show] };
    });
    const bug = S.bug ? assigned(l, c) : null;
    return [
      p("Which outputs did this input pixel take part in? Each of them sends back its gradient times the weight " +
        "through which it saw the pixel; " +
        `col2im adds what arrives: ${count(terms.length, "contribution")}.`),
      worked(steps),
      picker(dx, index, axes(dx), L[l].in), channels(dx, index, L[l].in, "input channel"),
      row(mapFigure({ id: "dz", title: `dz, output channel ${o}`, H: dz.shape[0], W: dz.shape[1],
        get: (a, e) => dz.get(a, e, o), most: 280,
        boxes: terms.map((t) => ({ i: t.oh, j: t.ow, color: ACCENT })),
          below: `${count(terms.length, "output pixel")} saw it (green).` }), op("→"),
      tensorFigure("dx", `dx, channel ${c}`, dx, index, (e) => go({ e, bug: S.bug }), { most: 280 }),
      bug ? mapFigure({ title: "dx with = in place of +=", H, W, get: bug.get, cur: [i, j], most: 280,
        peak: peakOf(H, W, (a, e) => dx.get(a, e, c)),
        note: "same scale", below: bug.known ? `${bug.differ} of ${count(bug.known, "pixel")} are wrong.` : "" })
          : null),
      h("p", {}, button(S.bug ? "Add again (+=)" : "Assign instead of add (=)",
        () => go({ e: index, bug: S.bug ? 0 : 1 }), { id: "bug", pressed: !!S.bug })),
      S.bug && last ? note("The famous bug: with ", code("="),
        " each contribution overwrites the one before. Here only the last survives: ", b(fmt(last.v)),
        " instead of ", b(fmt(steps[0].value)), ". The network still learns a little, so nobody notices; a gradient " +
          "check does, at once.") : null,
      table(["output pixel", "kernel place", `contribution: Σ over ${count(O, "channel")} of dz · w`,
        S.bug ? "pixel now (assigned)" : "sum so far", ""], lines),
      one ? h("details", { open: O <= 8 }, h("summary", {},
        `The contribution of output pixel (${one.oh}, ${one.ow}) in full (${count(O, "product")})`),
        table(["output channel", "dz", "w", "product", ""], one.inner.map((t, n) => ({ mark: outs[n] === o,
          cells: [String(outs[n]), t.a, t.b, t.v, button("show", () => go({ ...keep, c: outs[n], k }),
            { id: `o${n}`, label: `show dz of channel ${outs[n]}` })] })))) : null,
    ];
  },
  conv_turned(l) {
    const dx = T(l, "dx"), dz = dzOf(l), g = L[l].geo, index = chosen(l, "dx", dx, L[l].in), [i, j, c] = index,
      O = dz.shape[2], [OH, OW] = dz.shape;
    const places = turned(l, index), o = S.c !== null && S.c < O ? S.c
      : strongestOutput(places.filter((q) => q.hit), O), w = T(l, "p/w");
    const get = (f) => (a, e) => f(places[a * g.k[1] + e]),
      per = range(O).map((k) => ({ k, v: places.reduce((s, q) => s + q.inner[k].v, 0) }));
    const spread = { H: (OH - 1) * g.s[0] + 1, W: (OW - 1) * g.s[1] + 1 }, stretched = g.s[0] > 1 || g.s[1] > 1;
    const zero = (a, e) => (a % g.s[0] || e % g.s[1] ? 0 : dz.get(a / g.s[0], e / g.s[1], o));
    const pads = [0, 1].map((k) => [Math.max(0, (g.k[k] - 1) * g.d[k] - g.pads[k][0]),
      Math.max(0, (g.k[k] - 1) * g.d[k] - g.pads[k][1])]);
    const box = { i: places[0].row, j: places[0].column, h: (g.k[0] - 1) * g.d[0] + 1, w: (g.k[1] - 1) * g.d[1] + 1,
      color: ACCENT };
    return [
      p("The same sum in another order is a convolution again: lay the kernel, turned by 180°, on dz around this " +
        "pixel, multiply and add. It is " +
        "turned because the pixel met the kernel's first weight in the window that ends at it, and its last weight " +
          "in the window that begins there."),
      worked(explain(l, "turned", index), "The sum by the turned kernel"),
      picker(dx, index, axes(dx), L[l].in), channels(dx, index, L[l].in, "input channel"),
      row(kernelGrid(`The kernel w[:, :, ${c}, ${o}]`, g.k, (a, e) => w.get(a, e, c, o)), op("↻ 180°"),
        kernelGrid("turned", g.k, get((q) => q.inner[o].b)), op("×"),
          kernelGrid(`dz under it, channel ${o}`, g.k, get((q) => q.inner[o].a)),
        op("="), kernelGrid("Products", g.k, get((q) => nanless(q.inner[o].v))), op(`Σ = ${fmt(nanless(per[o].v))}`)),
      row(mapFigure({ id: "dz", title: `dz, output channel ` +
        `${o}${stretched ? ", with zeros between (the stride)" : ""}`, ...spread, get: zero, pads, boxes: [box],
        most: 300,
        note: "dotted cells are zeros around dz" }), op("→"),
          tensorFigure("dx", `dx, channel ${c}`, dx, index, select, { most: 300 })),
      details(`Sum per output channel (${O})`, table(["output channel", "Σ of products", ""],
        per.map((q) => ({ mark: q.k === o,
        cells: [String(q.k), nanless(q.v), button("show", () => go({ e: index, c: q.k }),
          { id: `o${q.k}`, label: `show output channel ${q.k}` })] })))),
    ];
  },
  // ---- transposed convolution
  stamp_one(l) {
    const x = T(l, "x"), y = T(l, "y"), index = chosen(l, "y", y, L[l].out), [i, j, o] = index, C = x.shape[2];
    const steps = explain(l, "y", index), terms = steps[0].terms, places = new Map();
    for (const t of terms) {
      const key = `${t.i},${t.j}`, q = places.get(key) || { i: t.i, j: t.j, kh: t.kh, kw: t.kw, list: [] };
      places.set(key, q);
      q.list.push(t);
    }
    const rows = [...places.values()].map((q) => ({ ...q, v: nanless(total(q.list).sum ?? NaN) }));
    const c = S.c !== null && S.c < C ? S.c : 0, boxes = rows.map((q) => ({ i: q.i, j: q.j, color: ACCENT }));
    return [
      p("A transposed convolution goes the other way: every input pixel stamps the kernel, times its number, into a " +
        `larger image. This output pixel lies under the stamps of ${count(rows.length, "pixel")}; what they bring is ` +
        "added up. It is the sum that Conv2D computes for dx, with x in the place of dz."),
      worked(steps),
      picker(y, index, axes(y), L[l].out), channels(y, index, L[l].out, "output channel"),
      row(mapFigure({ id: "x", title: `Input, channel ${c}`, H: x.shape[0], W: x.shape[1],
        get: (a, e) => x.get(a, e, c), boxes, most: 300,
        below: "Green: whose stamp reaches the output pixel." }), op("→"),
      tensorFigure("y", `Output, channel ${o}`, y, index, select, { most: 370 })),
      table(["input pixel", "kernel place", `contribution: Σ over ${count(C, "channel")} of x · w`, ""],
        rows.map((q) => [`(${q.i}, ${q.j})`, `(${q.kh}, ${q.kw})`, q.v, button("its stamp",
          () => go({ v: "stamp", e: [i, j, o], q: [q.i, q.j] }), { id: `s${q.i},${q.j}`,
            label: `show the stamp of pixel (${q.i}, ${q.j})` })])),
    ];
  },
  stamp_stamp(l) {
    const x = T(l, "x"), y = T(l, "y"), w = T(l, "p/w"), g = L[l].geo, index = chosen(l, "y", y, L[l].out),
      o = index[2];
    const [H, W, C] = x.shape, c = S.c !== null && S.c < C ? S.c : 0;
    const own = S.q && S.q[0] < H && S.q[1] < W ? S.q : [Math.floor(H / 2), Math.floor(W / 2)], v = x.get(...own, c);
    const place = (a, k) => start(own[k], k, g) + a * g.d[k], cut = (a, e) => place(a, 0) < 0 || place(e, 1) < 0
      || place(a, 0) >= y.shape[0] || place(e, 1) >= y.shape[1];
    const weight = (a, e) => w.get(a, e, o, c), move = (step) => go({ e: index, q: own, c: (c + C + step) % C });
    const stamp = (a, e) => (cut(a, e) ? "cut" : nanless(v * weight(a, e)));
    return [
      p(`Pixel (${own.join(", ")}) of channel ${c} is ${fmt(v)}. Its stamp in output channel ${o} is the kernel ` +
        `times this number. It begins at output pixel (${place(0, 0)}, ${place(0, 1)}): a pixel further on begins ` +
        `${g.s[0] === g.s[1] ? g.s[0] : g.s.join(" and ")} further on (the strides). Where stamps overlap, they add ` +
        "up."),
      picker(y, index, axes(y), L[l].out),
      row(op(`${fmt(v)} ×`), kernelGrid(`The kernel w[:, :, ${o}, ${c}]`, g.k, weight), op("="),
        kernelGrid("The stamp", g.k, stamp)),
      row(mapFigure({ id: "x", title: `Input, channel ${c} (choose a pixel)`, H, W, get: (a, e) => x.get(a, e, c),
        cur: own, most: 300, pick: (a, e) => go({ e: index, q: [a, e], c }) }), op("→"),
      mapFigure({ id: "y", title: `Output, channel ${o}`, H: y.shape[0], W: y.shape[1], get: (a, e) => y.get(a, e, o),
        boxes: [windowBox(g, ...own)], pads: g.pads, most: 370,
        below: "Green: where it lands, in the sum of all stamps. What lies in the border is cut off." })),
      C > 1 ? row(button("previous input channel", () => move(-1)), button("next input channel", () => move(1))) : null,
    ];
  },
  stamp_dx(l) {
    const dx = T(l, "dx"), dz = dzOf(l), w = T(l, "p/w"), g = L[l].geo, index = chosen(l, "dx", dx, L[l].in),
      [i, j, c] = index, O = dz.shape[2];
    const steps = explain(l, "dx", index), { terms } = steps[0],
      o = S.c !== null && S.c < O ? S.c : strongestOutput(terms, O);
    const under = (f) => (a, e) => {
      const t = terms.find((q) => q.kh === a && q.kw === e);
      return t ? f(t.inner[o]) : "cut";
    };
    return [
      p("A pixel stamped the kernel into the output; its gradient is what its stamp, laid on dz, sees there: weight " +
        "times gradient, added up. That is a convolution of dz, the forward pass of Conv2D."),
      worked(steps),
      picker(dx, index, axes(dx), L[l].in), channels(dx, index, L[l].in, "input channel"),
      row(kernelGrid(`dz under the stamp, channel ${o}`, g.k, under((t) => t.a)), op("×"),
        kernelGrid(`The kernel w[:, :, ${o}, ${c}]`, g.k, (a, e) => w.get(a, e, o, c)), op("="),
        kernelGrid("Products", g.k, under((t) => nanless(t.v)))),
      row(mapFigure({ id: "dz", title: `dz, output channel ${o}`, H: dz.shape[0], W: dz.shape[1],
        get: (a, e) => dz.get(a, e, o), boxes: [windowBox(g, i, j)], pads: g.pads, most: 370 }), op("→"),
      tensorFigure("dx", `dx, channel ${c}`, dx, index, select, { most: 300 })),
      details(`Sum per output channel (${O})`, table(["output channel", "Σ of products", ""],
        range(O).map((k) => ({ mark: k === o, cells: [String(k), nanless(terms.reduce((s, t) => s + t.inner[k].v, 0)),
          button("show", () => go({ e: index, c: k }), { id: `o${k}`, label: `show output channel ${k}` })] })))),
    ];
  },
  convWeight(l) {
    const g = T(l, "g/w"), index = chosen(l, "g:w", g, null), [kh, kw, c, o] = index, dz = dzOf(l),
      steps = explain(l, "g:w", index), stamped = L[l].kind === "Conv2DTranspose";
    const { terms } = steps[0], [OH, OW] = stamped ? T(l, "x").shape : dz.shape, many = [...terms].sort((a, e) =>
      Math.abs(e.v) - Math.abs(a.v)).slice(0, 6), top = many[0];
    const map = (title, get, more) => mapFigure({ title, H: OH, W: OW, get: (a, e) => get(terms[a * OW + e]),
      most: 300, ...more });
    return [
      p(stamped ? `Every input pixel has stamped with this weight: it multiplied the pixel, and the product went to ` +
        `one output pixel. Its gradient: the number that it multiplied, times the gradient that came back there, ` +
        `summed over all ${OH} × ${OW} pixels and ` +
        `${N === 1 ? "the batch of one" : `the ${count(N, "image")} of the batch`}.`
        : `A weight is used at every output pixel, so all ${OH} × ${OW} of them have a say in its gradient: the ` +
        `input number that it multiplied there, ` +
        `times the gradient that came back there. All are added, over the whole image and ` +
          `${N === 1 ? "the batch of one" : `the ${count(N, "image")} of the batch`}.`),
      worked(steps),
      picker(g, index, weightAxes(g, l)),
      row(map(`${stamped ? "dz" : "Input"} as this weight saw it (shift ${kh}, ${kw})`, (t) => t.a), op("×"),
        map(stamped ? `Input, channel ${o}` : `dz, channel ${joining(l).ends([c, o])[1]}`, (t) => t.b), op("="),
        map("Products: who gave this weight its gradient", (t) => nanless(t.v), { cur: top && [top.oh, top.ow] })),
      row(sharesFigure(steps[1]), table(["largest products", ...(stamped ? ["dz", "input"] : ["input", "dz"]),
        "product"],
        many.map((t) => [`(${t.oh}, ${t.ow})`, t.a, t.b, t.v]))),
      row(weightChooser(l, index), kernelGrid(`dw[:, :, ${c}, ${o}] (choose a weight)`, L[l].geo.k,
        (a, e) => g.get(a, e, c, o),
        { id: "w", cur: [kh, kw], pick: (a, e) => go({ e: [a, e, c, o] }),
          mark: (a, e) => (a === kh && e === kw ? "chosen" : "") })),
      N > 1 ? note(`The other images are not in this file. Their shares were summed in Python when the page was ` +
        `written; the share of image ${D.image} ` +
        `is computed here, from its ${count(terms.length, "product")}.`) : null,
    ];
  },
  convBias(l) {
    const g = T(l, "g/b"), dz = dzOf(l), index = chosen(l, "g:b", g, L[l].out), o = index[0],
      steps = explain(l, "g:b", index);
    return [
      p("The bias is added to every output pixel of its channel, so its gradient is the sum of all gradients there."),
      worked(steps),
      picker(g, index, ["output channel"]),
      row(mapFigure({ title: `dz, channel ${o}`, H: dz.shape[0], W: dz.shape[1], get: (i, j) => dz.get(i, j, o) }),
        sharesFigure(steps[1]),
        tensorFigure("gb", "db, all channels", g, index, select, { most: 240 })),
    ];
  },
  // ---- dense
  dense_one(l) {
    const y = T(l, "y"), x = T(l, "x"), index = chosen(l, "y", y, L[l].out), steps = explain(l, "y", index),
      n = x.shape[x.rank - 1];
    const terms = [...steps[0].terms].sort((a, e) => Math.abs(e.v) - Math.abs(a.v)), shown = terms.slice(0, 14),
      rest = total(terms.slice(14));
    const flat = sources(l)[0], from = flat !== INPUT && L[flat].kind === "Flatten" ? T(flat, "x").shape : null;
    const last = l === LOSS - 1 && y.rank === 1, label = (t) => `input ${t.i}`
      + (from ? ` (${unflat(t.i, from).join(", ")})` : "");
    return [
      p(`Every output is a weighted sum of ${n === 1 ? "its one " +
        "input" : `all ${whole(n)} inputs`}${steps[0].bias === undefined ? ""
        : ", plus a bias"}. The largest terms decide.` +
        (last && D.classes ? ` Output ${index[0]} is ${className(index[0])}.` : "")),
      worked(steps),
      picker(y, index, axes(y), L[l].out),
      last ? choices("Choose a class", range(Math.min(y.shape[0], 20)).map((k) =>
        button(className(k), () => go({ e: [k] }), { id: "class" + k, pressed: k === index[0] }))) : null,
      row(bars("The largest terms, input × weight", shown.map((t) => ({ label: label(t), v: t.v })),
        { hint: terms.length > 14 ? `The other ${count(terms.length - 14, "term")}: ${fmt(rest.sum)} in all.` : "" }),
        table(["input", "x", "w", "x · w"], shown.map((t) => [String(t.i), t.a, t.b, t.v]))),
      row(tensorFigure("y", "Outputs", y, index, select, { most: 370 }),
        tensorFigure("x", "Inputs", x, [...index.slice(0, -1), shown[0].i], null, { most: 300, cur: undefined })),
    ];
  },
  dense_dx(l) {
    const dx = T(l, "dx"), dz = dzOf(l), index = chosen(l, "dx", dx, L[l].in), steps = explain(l, "dx", index),
      last = l === LOSS - 1;
    const big = [...steps[0].terms].sort((a, e) => Math.abs(e.v) - Math.abs(a.v)).slice(0, 14);
    return [
      p(`An input reaches the loss through ${count(steps[0].terms.length, "output")}: each sends back its gradient ` +
        `times the weight between the two.`),
      worked(steps),
      picker(dx, index, axes(dx), L[l].in),
      row(bars("The largest terms, dz × weight", big.map((t) =>
        ({ label: last ? className(t.i) : `output ${t.i}`, v: t.v }))),
        tensorFigure("dx", "dx", dx, index, select, { most: 320 }),
          tensorFigure("dz", "dz of the outputs", dz, [0, 0, 0].slice(0, dz.rank), null,
          { most: 300, cur: undefined })),
    ];
  },
  denseParameter(l, name) {
    const g = T(l, "g/" + name), index = chosen(l, "g:" + name, g, null), steps = explain(l, "g:" + name, index),
      { terms } = steps[0], o = index[index.length - 1];
    const rows = T(l, "x").rank === 1 ? "sample" : "row", mark = (t) => rows === "sample" && t.n === D.image;
    return [
      p(name === "w" ? `This weight multiplied one input of every ${rows}. Its gradient: that input times the ` +
        `gradient of the output it feeds, summed over ${count(terms.length, rows)}.`
        : `A bias is added in every ${rows}: its gradient is the sum of dz over ${count(terms.length, rows)}.`),
      worked(steps),
      picker(g, index, name === "w" ? ["input", "output"] : ["output"]),
      row(bars(`What each ${rows} gave`, terms.slice(0, 40).map((t) =>
        ({ label: `${rows} ${t.n}${mark(t) ? " (this one)" : ""}`, v: t.v, mark: mark(t) }))),
        name === "w" ? table([rows, `x[${index[0]}]`, `dz[${o}]`, "product"],
          terms.slice(0, 40).map((t) => ({ mark: mark(t), cells: [String(t.n), t.a, t.b, t.v] }))) : null),
      name === "w" ? weightChooser(l, index) : tensorFigure("gb", "db", g, index, select, { most: 370 }),
    ];
  },
  // ---- batch normalisation
  bn_one(l) {
    const y = T(l, "y"), x = T(l, "x"), index = chosen(l, "y", y, L[l].out), f = bnForward(l, index);
    const now = [L[l].of_batch ? "now: statistics of this batch" : "now: moving statistics", f.x, f.mean, f.v,
      f.hat, f.gamma, f.beta, f.step.value];
    const later = ["in evaluation: moving statistics", f.x, f.mm, f.mv,
      (f.x - f.mm) / Math.sqrt(f.mv + num(L[l].config.epsilon)), f.gamma, f.beta, f.evaluation];
    return [
      p("Each channel is shifted to mean 0 and scaled to variance 1, over all pixels of all images of the batch; " +
        "then stretched by γ and shifted by β, which are learned."),
      worked([f.step]),
      picker(y, index, axes(y)), channels(y, index, L[l].out),
      table(["", "input x", "mean", "variance", "x̂ = (x − mean) / √(variance + ε)", "γ", "β", "y"], [now, later],
        { caption: "Training beside evaluation" }),
      note(`A large gap between the two rows means that the moving statistics are not there yet. Here: ` +
        `${fmt(f.step.value)} in this step, ${fmt(f.evaluation)} in evaluation.`),
      row(tensorFigure("x", "Input", x, index, select, { most: 370 }), op("→"),
        tensorFigure("y", "Output", y, index, select, { most: 370 })),
    ];
  },
  bn_stats(l) {
    const t = T(l, "mean"), index = chosen(l, "stats", t, null), steps = explain(l, "stats", index), x = T(l, "x"),
      c = index[0], n = spots(x);
    return [
      p(L[l].of_batch ? `Mean and variance of a channel, over N·H·W = ${count(N * n, "number")}: ` +
        `${count(N, "image")} of ${count(n, "number")} each. One channel, one mean; never one for each pixel.`
        : "In evaluation (or frozen) the moving statistics take the place of the batch's."),
      worked(steps, "The statistics"),
      picker(t, index, ["channel"]),
      row(...steps.filter((s) => s.shares).map((s) => sharesFigure(s,
        `${s.name.startsWith("mean") ? "Σ x" : "Σ (x − mean)²"} of each image, channel ${c}`))),
      row(tensorFigure("mean", "Means of all channels", t, index, select, { most: 260 }),
        tensorFigure("var", "Variances of all channels", T(l, "var"), index, select, { most: 260 })),
    ];
  },
  bn_dx(l) {
    const dx = T(l, "dx"), three = L[l].of_batch;
    const score = (index) => {
      const f = bnBackward(l, index); // a number for which all three terms matter
      return three ? Math.min(...[f.direct, f.viaMean, f.viaVar].map(Math.abs)) : Math.abs(f.direct);
    };
    const index = chosen(l, "dx", dx, null, score), f = bnBackward(l, index);
    return [
      p(three ? "x reaches y by three ways: directly, through the mean of its channel, and through the variance. The " +
        "gradient has one term for each. Forget one, and training " +
        "still runs; the gradient check fails." : "Mean and variance are constants here, so only the direct way is " +
          "left."),
      worked([f.step]),
      picker(dx, index, axes(dx)), channels(dx, index, L[l].in),
      row(three ? bars("The three terms", [{ label: "directly: γ/σ · dy", v: f.direct },
        { label: "through the mean: −γ/σ · mean(dy)", v: f.viaMean },
        { label: "through the variance: −γ/σ · x̂ · mean(dy·x̂)", v: f.viaVar }]) : null,
      three ? table(["quantity", "value"], [["γ / σ", f.a], ["dy", f.dy],
        [`mean of dy over the ${count(f.M, "number")} of the channel`, f.sy / f.M], ["x̂", f.hat],
        ["mean of dy · x̂", f.sx / f.M]]) : null),
      row(tensorFigure("dy", "dy", T(l, "dy"), index, select, { most: 370 }), op("→"),
        tensorFigure("dx", "dx", dx, index, select, { most: 370 })),
    ];
  },
  bn_laws(l) {
    const t = T(l, "mean"), index = chosen(l, "laws", t, null), c = index[0], steps = explain(l, "laws", index),
      dx = T(l, "dx");
    if (!steps.length) return [p("Mean and variance are constants here: nothing has to vanish."),
      picker(t, index, ["channel"])];
    return [
      p("Why three terms? Add the same number to all x of a channel, and the mean takes it away: no output changes, " +
        "so the gradients along the channel must add up to 0. " +
        "Stretch them all, and the variance takes it away, but for ε: so dx weighted by x̂ adds up to 0, too."),
      worked(steps, "Two sums over the whole batch"),
      picker(t, index, ["channel"]),
      row(sharesFigure(steps[0], `Σ dx of each image, channel ${c}`),
        sharesFigure(steps[1], `Σ dx·x̂ of each image, channel ${c}`)),
      dx.rank === 3 ? mapFigure({ title: `dx of image ${D.image}, channel ${c}`, H: dx.shape[0], W: dx.shape[1],
        get: (i, j) => dx.get(i, j, c), most: 300 }) : null,
    ];
  },
  bnParameter(l, name) {
    const g = T(l, "g/" + name), index = chosen(l, "g:" + name, g, null), steps = explain(l, "g:" + name, index),
      c = index[0], dy = T(l, "dy"), gamma = name === "gamma";
    const get = (i, j) => (gamma ? nanless(bnForward(l, [i, j, c]).hat * dy.get(i, j, c)) : dy.get(i, j, c));
    return [
      p(gamma ? "γ multiplies x̂ everywhere in its channel: dγ is the sum of dy · x̂."
        : "β is added everywhere in its channel: dβ is the sum of dy."),
      worked(steps),
      picker(g, index, ["channel"]),
      row(dy.rank === 3 ? mapFigure({ title: `${gamma ? "dy · x̂" : "dy"}, channel ${c}`, H: dy.shape[0],
        W: dy.shape[1], get, most: 300 }) : null, sharesFigure(steps[1]),
        tensorFigure("g", "All channels", g, index, select, { most: 240 })),
    ];
  },
  // ---- activations: a layer of their own, or that of a convolution or dense layer
  activation(l, d) {
    const inside = weighty(l), fwd = d === "f", what = inside ? (fwd ? "act" : "dz") : fwd ? "y" : "dx",
      out = inside && !fwd ? "dz" : fwd ? "y" : "dx";
    const t = T(l, out), index = chosen(l, what, t, null), a = L[l].act, steps = explain(l, what, index),
      source = inside ? "z" : "x", x = T(l, source), y = T(l, "y");
    if (a.name === "softmax") return [p(fwd ? "Softmax turns numbers into probabilities."
      : "The gradient of softmax and loss together."), worked(steps), picker(t, index, axes(t)),
      ...softmaxPart(l, index)];
    const read = fwd ? [given(source + at(index), inside ? "the weighted sum" : "what the layer reads",
      x.get(...index))]
      : [given(`dy${at(index)}`, "from the layer after", T(l, "dy").get(...index)),
        given(`y${at(index)}`, "the output in the forward pass", y.get(...index))];
    const relu = a.name === "relu" && !num(a.slope), off = share(y, (v) => v === 0), view = plane(y, index),
      dead = relu ? { dead: (i, j) => view.get(i, j) === 0, note: "hatched: switched off" } : {};
    const mask = (i, j) => (view.get(i, j) === undefined ? undefined : view.get(i, j) > 0 ? 1 : 0),
      slope = slopeText[a.name]?.(a) || "that of a custom function";
    const figure = (id, title, tensor, more) => tensorFigure(id, title, tensor, index, select,
      { most: fwd ? 370 : 300, ...more });
    const said = a.name === "log_softmax"
      ? (fwd ? "The logarithms of softmax's probabilities: each number less the logarithm of the sum of all exp."
        : "From each gradient the sum of all is taken off, times the probability of its class.")
      : fwd ? `${a.name}, applied to each number.` : `${a.name}: the gradient is multiplied by its slope, ${slope}.`;
    return [
      p(relu ? (fwd ? `ReLU keeps what is above 0 and switches the rest off: here ${percent(off)} of the outputs are 0.`
        : `Where ReLU let a number through, the gradient passes unchanged. Where it was switched off, nothing ` +
          `passes: that is ${percent(off)} of the outputs. A channel that is off for all pictures is a dead ReLU: ` +
        "its weights receive no gradient, and never change.") : said),
      worked([...read, ...steps]),
      picker(t, index, axes(t)), channels(y, index, L[l].out),
      fwd ? row(figure(source, inside ? "z: before the activation" : "Input", x, dead), op("→"),
        figure("y", "y: after it", y))
        : row(figure("dy", "dy, from the layer after", T(l, "dy"), dead), relu ? op("×") : null,
          relu ? mapFigure({ title: "Mask: 1 where the output is above 0", H: view.H, W: view.W, get: mask,
            cur: view.cur, most: 300, peak: 1 }) : null, op("="), figure(out, out, t)),
    ];
  },
  // ---- pooling
  poolForward(l) {
    const max = L[l].kind === "MaxPooling2D", g = L[l].geo, x = T(l, "x"), y = T(l, "y"),
      index = chosen(l, "y", y, null), [H, W] = x.shape, [OH, OW] = y.shape, c = index[2];
    const f = poolForward(l, index), peak = Math.max(...f.cells.map((q) => Math.abs(q.v) || 0)),
      value = (q) => (q.out ? "pad" : q.v);
    const tied = (cell) => {
      const inside = windowCells(l, [Math.floor(cell / OW), cell % OW, c]).filter((e) => !e.out),
        top = y.get(Math.floor(cell / OW), cell % OW, c);
      return inside.filter((e) => e.v === top).length > 1;
    };
    const ties = max ? range(OH * OW).filter(tied).length : 0,
      winner = max && f.best >= 0 ? [{ i: f.cells[f.best].i, j: f.cells[f.best].j, color: SECOND }] : [];
    const { text, dead } = leftOver(l);
    return [
      p(max ? `Of each window of ${times(g.k)} the largest number stays. The place of the winner is remembered for ` +
        `the backward pass.` : `Each window of ${times(g.k)} becomes its mean; padding is not counted.`),
      worked(f.steps),
      picker(y, index, axes(y)), channels(y, index, L[l].out),
      row(mapFigure({ id: "x", title: `Input, channel ${c}`, H, W, get: (i, j) => x.get(i, j, c),
        boxes: [{ ...windowBox(g, index[0], index[1]) }, ...winner], pads: g.pads, most: 370, ...dead }), op("→"),
        tensorFigure("y", `Output, channel ${c}`, y, index, select, { most: 370 }),
        kernelGrid(max ? "The window (framed: winner)" : "The window", g.k,
          (i, j) => value(f.cells[i * g.k[1] + j]), { peak, mark: (i, j) =>
          (max && i * g.k[1] + j === f.best ? "chosen" : "") })),
      max && f.ties > 1 ? note(`A tie: ${f.ties} numbers of this window are equal. The first one wins, and alone ` +
        `receives the gradient.`) : null,
      max ? note(`Ties in channel ${c}: ${ties} of ${count(OH * OW, "window")}`
        + (ties ? " (mostly windows of zeros, behind a ReLU)." : ".")) : null, text,
    ];
  },
  poolBackward(l) {
    const max = L[l].kind === "MaxPooling2D", t = T(l, "dx"), dy = T(l, "dy"), index = chosen(l, "dx", t, null),
      c = index[2], f = poolBackward(l, index), { text, dead } = leftOver(l);
    const hits = f.terms.map((q) => ({ i: q.oh, j: q.ow, color: ACCENT }));
    return [
      p(max ? "The gradient of a window goes to its winner alone; all other pixels receive 0 from it."
        : "Every pixel of a window receives an equal share of its gradient."),
      worked(f.steps),
      picker(t, index, axes(t)), channels(t, index, L[l].in),
      row(mapFigure({ id: "dy", title: `dy, channel ${c}`, H: dy.shape[0], W: dy.shape[1],
        get: (i, j) => dy.get(i, j, c), boxes: hits, most: 370 }), op("→"),
        tensorFigure("dx", `dx, channel ${c}`, t, index, select, { most: 370, ...dead })),
      table(["window", "dy", max ? "is it this pixel?" : "share", "arrives"],
        f.terms.map((q) => [`(${q.oh}, ${q.ow})`, q.a, max ? q.bn : q.b, q.v])), text,
    ];
  },
  globalAverage(l, d) {
    const fwd = d === "f", t = T(l, fwd ? "y" : "dx"), index = chosen(l, fwd ? "y" : "dx", t, null), x = T(l, "x"),
      c = index[index.length - 1];
    return [
      p(fwd ? "Each channel becomes its mean over the whole image."
        : "Every pixel of a channel receives the same share: dy / (H·W)."),
      worked(explain(l, fwd ? "y" : "dx", index)),
      picker(t, index, axes(t)),
      row(mapFigure({ title: `Input, channel ${c}`, H: x.shape[0], W: x.shape[1], get: (i, j) => x.get(i, j, c) }),
        tensorFigure("t", fwd ? "Output" : "dx", t, index, select)),
    ];
  },
  // ---- where branches meet
  mergeForward(l) {
    const y = T(l, "y"), index = chosen(l, "y", y, null), steps = explain(l, "y", index), { kind, inputs } = L[l];
    const terms = steps[0].terms || [], place = (k) => terms.find((t) => t.k === k)?.index;
    const sign = { Add: "+", Subtract: "−", Multiply: "·", Average: "+", Maximum: "or" }[kind] || "and";
    const said = {
      Add: "are added, number by number", Subtract: "are subtracted, number by number",
        Average: "are averaged, number by number",
      Multiply: "are multiplied, number by number", Maximum: "are compared: the larger number stays",
      Concatenate: "are laid one behind the other",
    }[kind] || "are joined by a custom layer";
    const maps = inputs.flatMap((source, k) => {
      const t = read(l, k), here = place(k) || t.shape.map(() => 0);
      return [k ? op(sign) : null, tensorFigure(`x${k}`,
        `x${k}: ${keyOf(source)}${t.rank === 3 ? `, channel ${here[2]}` : ""}`,
        t, here, null, { most: 260, ...(place(k) ? {} : { cur: undefined }) })];
    });
    return [
      p(`Here branches meet: ${inputs.length} inputs ${said}. ` +
        `${inputs.map((source, k) => `x${k} is ${keyOf(source)}`).join(", ")}.`),
      worked(steps),
      picker(y, index, axes(y)), channels(y, index, null),
      row(...maps, op("→"), tensorFigure("y", `y${y.rank === 3 ? `, channel ${index[2]}` : ""}`, y, index, select,
        { most: 260 })),
      table(["input", "layer", "number", "value"], terms.map((t) =>
        [`x${t.k}`, keyOf(inputs[t.k]), `x${t.k}${at(t.index)}`, t.v])),
    ];
  },
  mergeBackward(l, k) {
    const t = T(l, `dx/${k}`), dy = T(l, "dy"), index = chosen(l, `dx/${k}`, t, null), source = keyOf(L[l].inputs[k]);
    const said = {
      Add: "Each term of a sum receives the whole gradient, unchanged: that is why a skip connection carries it past " +
        "any number of layers.",
      Subtract: "The first input receives the gradient, the second its negative.",
        Average: "Each input receives an equal share.",
      Multiply: "Each input receives the gradient times the product of the others.",
      Maximum: "The gradient goes to the input that was the largest; of equal ones, to the first.",
      Concatenate: "The gradient is cut where the inputs were joined: each receives its own part.",
    }[L[l].kind] || "The gradients were recorded.";
    const from = dy.rank === t.rank ? reached(t, index, dy.shape)[0] : index;
    const shown = L[l].kind === "Concatenate" ? null : from;
    return [
      p(`${said} dx${k} goes to ${source}.`),
      worked(explain(l, `dx/${k}`, index)),
      picker(t, index, axes(t)), channels(t, index, null),
      row(tensorFigure("dy", "dy, from the layers after", dy, shown || dy.shape.map(() => 0), null,
        { most: 330, ...(shown ? {} : { cur: undefined }) }), op("→"),
          tensorFigure("dx", `dx${k}: to ${source}`, t, index, select, { most: 330 })),
    ];
  },
  meet(l) {
    const dy = T(l, "dy"), index = chosen(l, "dy", dy, null), terms = sentBack(l, index);
    const maps = terms.flatMap((t, n) => [n ? op("+") : null, tensorFigure(`from${n}`, `${t.name} of ${keyOf(t.l)}`,
      T(t.l, t.name === "dx" ? "dx" : `dx/${t.name.slice(2)}`), index, select, { most: 260 })]);
    return [
      p(`The output of ${keyOf(l)} is read ${count(terms.length, "time")}, so it reaches the loss by ${terms.length} ` +
        `ways. Here their gradients meet, ` +
        "and are added: the chain rule for a number that is used more than once. With = in place of += one branch " +
          "would learn nothing."),
      worked(explain(l, "dy", index)),
      picker(dy, index, axes(dy)), channels(dy, index, null),
      row(...maps, op("="), tensorFigure("dy", `dy of ${keyOf(l)}`, dy, index, select, { most: 260 })),
      table(["from", "gradient", "value"], terms.map((t) => [keyOf(t.l), `${t.name}${at(index)}`, t.a])),
    ];
  },
  // ---- layers that move or scale
  flatten(l, d) {
    const fwd = d === "f", x = T(l, "x"), t = T(l, fwd ? "y" : "dx"), index = chosen(l, fwd ? "y" : "dx", t, null),
      f = fwd ? index[0] : flatOf(index, x.shape), from = unflat(f, x.shape);
    const map = T(l, fwd ? "x" : "dx"), strip = T(l, fwd ? "y" : "dy"),
      take = (k) => go({ e: fwd ? [k] : unflat(k, x.shape) }), [, W, C] = x.shape, q = Math.floor(f / C);
    const rules = [["address → place", "(row · W + column) · C + channel",
      `(${from[0]} · ${W} + ${from[1]}) · ${C} + ${from[2]} = ${f}`],
      ["place → address", "channel = place mod C; then column = rest mod W; row",
        `${f} mod ${C} = ${f % C}; ${q} mod ${W} = ${q % W}; row ${Math.floor(q / W)}`]];
    const title = (fwd ? "Input" : "dx") + (x.rank === 3 ? `, channel ${from[2]}` : "");
    return [
      p(`${times(x.shape)} = ${count(x.size, "number")} in one row, in the same order. No arithmetic, only a new ` +
        `address; the backward pass folds the row up again.`),
      worked(explain(l, fwd ? "y" : "dx", index), "The number"),
      picker(t, index, fwd ? ["place in the row"] : axes(t)),
      row(tensorFigure("x", title, map, from, (e) => take(flatOf(e, x.shape)), { most: 300 }), op(fwd ? "→" : "←"),
        tensorFigure("y", fwd ? "The row (wrapped to fit)" : "dy: the row", strip, [f], (e) => take(e[0]),
          { most: 330 })),
      x.rank === 3 ? table(["direction", "rule", "here"], rules, { caption: "The index, both ways" }) : null,
    ];
  },
  dropout(l, d) {
    const fwd = d === "f", t = T(l, fwd ? "y" : "dx"), from = T(l, fwd ? "x" : "dy"), m = T(l, "mask"),
      index = chosen(l, fwd ? "y" : "dx", t, null), rate = num(L[l].config.rate), view = m && plane(m, index);
    const hatched = m ? { dead: (i, j) => view.get(i, j) === 0, note: "hatched: dropped" } : {},
      factor = fmt(1 / (1 - rate));
    return [
      p(m ? `Each number is dropped with probability ${fmt(rate)}; the others are multiplied by 1 / (1 − ` +
        `${fmt(rate)}) = ${factor}, so that the expected sum stays the same. ` +
        `Here ${percent(share(m, (v) => v === 0))} of this image's numbers were ` +
          `dropped.${fwd ? "" : " The backward pass uses the same mask and the same factor."}`
        : "In evaluation dropout does nothing: every number passes, without a factor."),
      worked(explain(l, fwd ? "y" : "dx", index)),
      picker(t, index, axes(t)), channels(t, index, L[l].out),
      row(tensorFigure("x", fwd ? "Input" : "dy", from, index, select, { most: 300, ...hatched }), m ? op("×") : null,
        m ? mapFigure({ title: "Mask: 1 where kept, 0 where dropped", H: view.H, W: view.W, get: view.get,
          cur: view.cur,
          most: 300, peak: 1 }) : null, op(m ? `× ${factor} =` : "="),
          tensorFigure("y", fwd ? "Output" : "dx", t, index, select, { most: 300 })),
    ];
  },
  plain(l, d) {
    const fwd = d === "f", t = T(l, fwd ? "y" : "dx"), from = T(l, fwd ? "x" : "dy"),
      index = chosen(l, fwd ? "y" : "dx", t, null), same = from.rank === t.rank
      && from.shape.every((v, k) => v === t.shape[k]);
    return [
      p(L[l].kind === "Rescaling" ? "A factor and an offset: the same for every number, or one for each channel."
        : L[l].kind === "ZeroPadding2D" ? "A border of zeros around each image; the backward pass cuts it off again."
        : `This page shows the numbers of a ${L[l].kind}, but does not work them out; ` +
          `of minicnn's own layers t.explain does.`),
      worked(explain(l, fwd ? "y" : "dx", index)),
      picker(t, index, axes(t)), channels(t, index, null),
      row(tensorFigure("x", fwd ? "Input" : "dy", from, same ? index : from.shape.map(() => 0),
        same ? select : null), tensorFigure("y", fwd ? "Output" : "dx", t, index, select)),
    ];
  },
  // ---- the update
  update(l) {
    const names = learned(l), name = names[S.c ?? 0] || names[0], u = T(l, "u/" + name),
      index = chosen(l, "u:" + name, u, null), steps = explain(l, "u:" + name, index), o = D.optimizer;
    const before = T(l, "p/" + name).get(...index), gradient = T(l, "g/" + name).get(...index),
      g = T(l, "a/" + name)?.get(...index) ?? gradient, lr = num(o.learning_rate), after = u.get(...index);
    const others = [["SGD", "SGD", {}], ["SGD with momentum 0.9", "SGD", { momentum: 0.9 }],
      ["Adam", "Adam", {}]].map(([label, kind, config]) => {
      let weight = before, state = { momentum: 0, m: 0, v: 0 };
      const moves = [];
      for (let k = 1; k <= 10; k++) {
        const r = rule(kind, config, state, weight, g, lr, k);
        weight = r.p;
        state = { ...state, ...r.slots };
        moves.push(weight - before);
      }
      return [label, moves[0], moves[1], moves[9]];
    });
    const label = `${name}${at(index)}`;
    return [
      p(`The optimizer (${o.class_name}, learning rate ${fmt(lr)}, step ${o.iterations + 1}) turns the gradient ` +
        `${fmt(gradient)} of ${label} into a step: from ${fmt(before)} to ${fmt(after)}.`),
      worked(steps, "The step"),
      names.length > 1 ? choices("Choose a parameter", names.map((n, k) =>
        button(n, () => go({ c: k, e: null, w: 0 }), { id: "param" + n, pressed: n === name }))) : null,
      picker(u, index, weightAxes(u, l)),
      table(["", "before", "gradient", "after", "change"], [[label, before, gradient, after, after - before]]),
      u.rank > 1 ? weightChooser(l, index, name)
        : tensorFigure("u", `${name} after`, u, index, (e) => go({ e, c: S.c }), { most: 300 }),
      table(["from the same gradient", "after 1 step", "after 2 steps", "after 10 steps"], others,
        { caption: `What three optimizers would make of the gradient ${fmt(g)}, all with learning rate ${fmt(lr)}, ` +
        `starting anew, if it stayed the same (change of the weight)` }),
      note(`SGD's step grows with the gradient. Momentum gathers speed. Adam's first step is the learning rate ` +
        `itself, as long as the gradient is much larger than ε / √(1 − β₂) = ${fmt(1e-7 / Math.sqrt(0.001))}.`),
    ];
  },
  check(l) {
    const list = D.check.filter((c) => c.layer === l),
      others = [...new Set(D.check.map((c) => L[c.layer].key))].join(", ") || "none";
    if (!list.length) {
      return [p("No gradient check is in this file for this layer: each needs dozens of passes through the network, " +
        "and those of this layer would have taken too long " +
        "(or a layer is a custom one, or there is no loss)."), note(`There are checks for: ${others}.`)];
    }
    const c = list[Math.min(S.k, list.length - 1)], rows = checkRows(c), best = bestRow(c),
      log = (v) => Math.log10(Math.min(Math.max(v, 1e-13), 1e3)), nothing = Math.abs(num(c.exact)) < num(c.noise);
    const series = (name, key, color, dash) => ({ name, color, dash,
      points: rows.map((r) => [Math.log10(r.h), log(r[key])]) });
    return [
      p("Is the gradient right? Move the weight by ±h, compute the loss both times, and divide the difference by 2h. " +
        "That needs no backward pass, so it is an independent witness. " +
        `The backward pass found ${fmt(num(c.recorded))} for ${c.param}${at(c.index)}.`),
      worked([{ ...checkStep(c), note: `Compared within ${fmt(allowed(c))}: a thousandth, and the rounding of ` +
        `float32 in the recorded gradient.` }], "The best h, in float64"),
      choices("Choose a weight", list.map((q, k) => button(`${q.param}${at(q.index)}`, () => go({ k }),
        { id: "check" + k, pressed: q === c }))),
      chart("Relative error of the difference quotient (log₁₀), against log₁₀ h",
        [series("float64", "error64", ACCENT), series("float32", "error32", SECOND, true)], { x: "log₁₀ h" }),
      note("Right of the valley, h is so large that the curve bends. Left of it, the two losses agree in so many " +
        "digits that rounding is all that is left. In float32 hardly " +
        "anything remains: that is why checks run in float64. A bump may be a kink (a ReLU or a maximum that " +
          "changes)."),
      table(["h", "loss at w + h", "loss at w − h", "quotient", "error, float64", "error, float32"],
        rows.map((r) => ({ mark: r.h === best.h, cells: [fmt(r.h), r.plus.toPrecision(10), r.minus.toPrecision(10),
          r.quotient64, r.error64, r.error32] }))),
      nothing ? note("This gradient is 0 but for rounding. A bias in front of a batch normalisation is like that: " +
        "the mean is subtracted again, so the bias changes nothing.") : null,
      note(`The losses were computed in Python when this page was written, with the layers from this one on; the ` +
        `quotients and errors are computed here. Gradient by backpropagation in float64: ${fmt(num(c.exact))}.`),
    ];
  },
  none(l) { return [p(`${L[l].key} has no parameters: nothing to update. The optimizer only visits layers that ` +
    `learn.`)]; },
  // ---- the loss
  loss() {
    const y = T(LOSS - 1, "y"), vector = y.rank === 1, shown = range(Math.min(y.shape[0], 40)),
      probs = vector ? shown.map((k) => ({ label: className(k), v: y.get(k), mark: k === D.label })) : [];
    const guess = probs.reduce((a, e, k) => (e.v > probs[a].v ? k : a), 0);
    return [
      D.label === undefined ? p("The prediction, the target, and how far they are apart.")
        : p("The network says ", b(className(guess)), ` (${fmt(y.get(guess))}); the label says `,
        b(className(D.label)), ` (${fmt(y.get(D.label))}).`),
      worked(lossSteps(), "The loss"),
      row(h("figure", { className: "map" }, h("figcaption", {}, `Image ${D.image} of the batch`), photo(190)),
        vector ? bars("Prediction (framed: the label)", probs) : null),
      batchLosses(), softmaxLab(),
    ];
  },
  lossGradient() {
    const y = T(LOSS - 1, "y"), K = y.shape[0], k = S.e && S.e[0] < K ? S.e[0] : D.label ?? 0,
      shown = range(Math.min(K, 40)), logits = onLogits();
    if (y.rank !== 1) return [p("The gradient of the loss with respect to the network's output is recorded; see the " +
      "last layer's dy.")];
    const list = shown.map((q) => lossGradient(q)), what = logits ? "logit" : "output";
    return [
      p((logits ? "Softmax (or sigmoid) and cross-entropy together have the simplest gradient there is: probability " +
        "minus target, with respect to the logit (the number before the softmax). "
        : "The gradient of the loss with respect to each output. ")
        + (summed() ? "It is not divided by the size of the batch, because the loss is a sum. "
          : `It is divided by the batch of ${N}, because the loss is the mean over it: so a larger batch makes no ` +
            "larger steps. ") +
        `The chosen ${what} is that of ${className(k)}.`),
      worked([list[k] || lossGradient(k)]),
      bars(`Gradient with respect to the ${what}s`, shown.map((q) =>
        ({ label: className(q), v: list[q].value ?? list[q].rec, mark: q === k }))),
      choices("Choose an output", shown.map((q) => button(className(q), () => go({ e: [q] }),
        { id: "class" + q, pressed: q === k }))), softmaxLab(),
    ];
  },
  afterwards() {
    const before = num(D.loss), after = num(D.loss_after), lists = [];
    for (let l = 0; l < L.length; l++) for (const n of params(l)) if (T(l, "u/" + n)
      && T(l, "a/" + n)) lists.push({ label: `${L[l].key} ${n}`, v: moved(l, [n], 400) });
    const way = after < before ? "fell" : after > before ? "rose" : "stayed: it went",
      step = { name: "change of the loss", text: `${fmt(after)} − ${bracket(before)}`, value: after - before,
      law: after - before, lawText: "with the same dropout masks" };
    return [
      p(`One step of the optimizer, and the same batch once more: the loss ${way} from ${fmt(before)} to ` +
        `${fmt(after)}${after > before ? ". With a step of this size, or one that older batches have shaped, that " +
        "can happen." : "."}`),
      worked([step], "Before and after"),
      row(bars("Loss of the batch", [{ label: "before", v: before }, { label: "after", v: after }]),
        bars("Size of the update, relative to the weights", lists,
          { hint: "Healthy: 10⁻⁴ to 10⁻². From a sample of the weights in this file; parameters that start at 0 have " +
          "no meaningful ratio." })),
    ];
  },
};

// ---- parts of views -----------------------------------------------------------------------------------------------

// The relative size of the step of these parameters of a layer.
function moved(l, names, size) {
  let move = 0, all = 0;
  for (const n of names) for (const index of sample(T(l, "u/" + n), size)) {
    const v = T(l, "p/" + n).get(...index);
    move += (T(l, "u/" + n).get(...index) - v) ** 2;
    all += v * v;
  }
  return all ? Math.sqrt(move / all) : 0;
}
// Rows and columns that no window of a pooling reaches.
function leftOver(l) {
  const g = L[l].geo, [H, W] = T(l, "x").shape, [OH, OW] = T(l, "y").shape;
  const lastRow = start(OH - 1, 0, g) + g.k[0], lastCol = start(OW - 1, 1, g) + g.k[1];
  const lost = [H > lastRow ? count(H - lastRow, "row") : "",
    W > lastCol ? count(W - lastCol, "column") : ""].filter(Boolean).join(" and ");
  if (!lost) return { text: note(`${H} × ${W} pixels are cut into windows, ${OH} × ${OW} of them, and nothing is ` +
    `left over.`),
    dead: {} };
  return {
    text: note(`${H} × ${W} pixels are cut into windows, ${OH} × ${OW} of them. The last ${lost} are in no window: ` +
      `dropped, and ` +
      `without a gradient.`),
    dead: { dead: (i, j) => i >= lastRow || j >= lastCol, note: "hatched: in no window" },
  };
}
// dx of a channel as the famous bug makes it: the last contribution in place of their sum.
function assigned(l, c) {
  const dx = T(l, "dx"), [H, W] = dx.shape, values = range(H * W).map((k) => {
    const terms = convDx(l, [Math.floor(k / W), k % W, c]);
    return terms.length ? nanless(terms[terms.length - 1].v) : 0;
  });
  let differ = 0, known = 0;
  values.forEach((v, k) => {
    const right = dx.get(Math.floor(k / W), k % W, c);
    if (v === undefined || right === undefined) return;
    known++;
    if (Math.abs(v - right) > 1e-4 * dx.largest()) differ++;
  });
  return { get: (i, j) => values[i * W + j], differ, known };
}
const strongest = (channels) => channels.reduce((a, q, c) => (size2(q.m) > size2(channels[a].m) ? c : a), 0);
const size2 = (m) => m.flat().reduce((a, v) => a + Math.abs(nanless(v) ?? 0), 0);
function strongestOutput(terms, O) {
  const size = (o) => terms.reduce((a, t) => a + Math.abs(nanless(t.inner[o].v) ?? 0), 0), sizes = range(O).map(size);
  return sizes.indexOf(Math.max(...sizes));
}
// The weights of the layer as a map to choose from: kernel places of a convolution, inputs × outputs of a dense layer.
function weightChooser(l, index, name = "w") {
  const w = T(l, "p/" + name), update = S.d === "u", g = T(l, (update ? "u/" : "g/") + name) || w,
    keep = (e) => go({ e, c: S.c }), title = update ? `${name} after` : `d${name}`;
  if (index.length === 4) {
    const [kh, kw, c, o] = index, [rows, columns] = weightAxes(g, l).slice(2), there = g.parts[0].at,
      ins = there[2] || range(w.shape[2]), outs = there[3] || range(w.shape[3]);
    const below = ins.length < w.shape[2] || outs.length < w.shape[3]
      ? `${rows} ${ins.join(", ")}; ${columns} ${outs.join(", ")}: those in this file.` : "";
    const cur = ins.includes(c) && outs.includes(o) ? [ins.indexOf(c), outs.indexOf(o)] : undefined;
    return row(mapFigure({ id: "wc", title: `${title} at kernel place (${kh}, ${kw}): ${rows} × ${columns}`,
      H: ins.length, W: outs.length, get: (i, j) => g.get(kh, kw, ins[i], outs[j]),
      cur, pick: (i, j) => keep([kh, kw, ins[i], outs[j]]), most: 300, big: 26, below }),
    update ? kernelGrid("The kernel after the step", w.shape, (a, e) => g.get(a, e, c, o),
      { id: "wk", cur: [kh, kw], pick: (a, e) => keep([a, e, c, o]),
      mark: (a, e) => (a === kh && e === kw ? "chosen" : "") }) : null);
  }
  // A dense layer has too many weights for one picture: those near the chosen one.
  const near = (axis, most) => {
    const list = g.parts[0].at[axis] || range(g.shape[axis]), place = Math.max(0, list.indexOf(index[axis])),
      from = Math.max(0, Math.min(list.length - most, place - Math.floor(most / 2)));
    return list.slice(from, from + most);
  };
  const ins = near(0, 16), outs = near(1, 24), i = ins.indexOf(index[0]), j = outs.indexOf(index[1]);
  const below = `Rows: inputs ${ins[0]} to ${ins.at(-1)} of ${g.shape[0]}; columns: outputs ${outs[0]} to ` +
    `${outs.at(-1)} of ${g.shape[1]}${g.whole ? "" : ", as far as they are in this file"}.`;
  return mapFigure({ id: "wc", title, H: ins.length, W: outs.length, get: (a, e) => g.get(ins[a], outs[e]),
    cur: i >= 0 && j >= 0 ? [i, j] : undefined, pick: (a, e) => keep([ins[a], outs[e]]), most: 480, big: 20, below });
}
function batchLosses() {
  const t = tensor(D.losses), label = (n) => (n === D.image ? `image ${n} (this one)` : `image ${n}`);
  if (t.rank !== 1 || N > 64 || N === 1) return null;
  return details(`The ${count(N, "loss", "losses")} of the batch`,
    bars("Loss of each image", range(N).map((n) => ({ label: label(n), v: t.get(n) / (summed() ? N : 1),
      mark: n === D.image }))));
}
function logitsNow() {
  for (let l = LOSS - 1; l >= 0; l--) if (activation(l) === "softmax"
    && T(l, "z").rank === 1) return rowOf(T(l, "z"), [0]);
  return D.loss_function && D.loss_function.config.from_logits && T(LOSS - 1, "y").rank === 1
    ? rowOf(T(LOSS - 1, "y"), [0]) : null;
}
function softmaxPart(l, index) {
  if (T(l, "z").rank !== 1) return [];
  const z = rowOf(T(l, "z"), index), s = softmaxOf(z), k = index[0],
    lines = z.slice(0, 40).map((v, i) => ({ mark: i === k, cells: [className(i), v, v - s.max, s.exp[i], s.p[i]] }));
  return [table(["class", "logit z", "z − max", "exp", "p = exp / sum"], lines,
    { caption: `Softmax: the largest logit, ${fmt(s.max)}, is subtracted first; the sum of the exponentials is ` +
    `${fmt(s.sum)}` }), softmaxLab()];
}
// Sliders: a shift changes nothing, a scale sharpens, and without subtracting the maximum exp overflows.
function softmaxLab() {
  const z = logitsNow(), knobs = { shift: 0, scale: 1 }, f32 = Math.fround, box = h("div");
  if (!z || z.length > 40) return null;
  const remark = (broken) => (broken ? "The naive form has failed: exp overflows float32 above 88.7 (and is 0 far " +
    "below), and ∞/∞ is not a number. With the maximum subtracted first, nothing happens at all."
    : knobs.shift ? "A shift of all logits changes no probability." : knobs.scale > 1
      ? "Larger logits: the same order, but a surer network."
      : knobs.scale < 1 ? "Smaller logits: the probabilities come closer together."
        : "Move the sliders: a shift changes nothing, until the naive form overflows.");
  const show = () => {
    const at = z.map((v) => v * knobs.scale + knobs.shift), s = softmaxOf(at),
      naive = at.map((v) => f32(Math.exp(v))), sum = naive.reduce((a, e) => f32(a + e), 0);
    const lines = at.map((v, i) => ({ mark: i === D.label,
      cells: [className(i), v, s.p[i], naive[i], f32(naive[i] / sum)] }));
    box.replaceChildren(table(["class", "logit", "p, maximum subtracted", "exp(z) in float32", "p, naive"], lines),
      note(remark(!Number.isFinite(sum) || sum === 0)));
  };
  const slider = (key, min, max, step) => {
    const out = h("output", {}, fmt(knobs[key]));
    const turn = (e) => {
      knobs[key] = Number(e.target.value);
      out.textContent = fmt(knobs[key]);
      show();
    };
    return h("label", { className: "slider" }, key, h("input",
      { type: "range", min, max, step, value: knobs[key], oninput: turn }), out);
  };
  show();
  return h("details", { open: S.w === 0 }, h("summary", {}, "Try it: shift and scale the logits"),
    slider("shift", -150, 150, 5), slider("scale", 0, 5, 0.1), box);
}

