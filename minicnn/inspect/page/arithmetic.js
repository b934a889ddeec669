// The arithmetic: a number from its operands; and the self-test, which compares what comes out with what was recorded.
//
// A step of an explanation is {name, text, terms, value, rec, mag}. value is computed here, rec is the recorded number;
// mag is the size of what was added up, against which rounding is judged. `law` in place of rec: what must come out.

const TOLERANCE = 2e-5;
function judge(step) {
  const rec = step.law ?? step.rec;
  if (rec === undefined || step.value === undefined || Number.isNaN(step.value)) {
    return rec !== undefined && Number.isNaN(rec) && Number.isNaN(step.value) ? "ok" : "none";
  }
  if (step.value === rec) return "ok";
  const size = Math.max(Math.abs(step.value), Math.abs(rec), step.mag || 0);
  return Math.abs(step.value - rec) <= TOLERANCE * size + 1e-37 ? "ok" : "bad";
}
function total(terms) {
  let sum = 0, mag = 0;
  for (const t of terms) {
    sum += t.v;
    mag += Math.abs(t.v);
  }
  const missing = terms.some((t) => t.a === undefined || t.b === undefined);
  return { sum: Number.isNaN(sum) && missing ? undefined : sum, mag };
}
const product = (a, an, b, bn, more) => ({ a, an, b, bn, v: a === undefined || b === undefined ? NaN : a * b,
  ...more });
const known = (v, value) => (v === undefined ? undefined : value);

// ---- activations and the loss -------------------------------------------------------------------------------------

function erf(x) {
  // A series near 0, a continued fraction further out; minicnn/kernels/activations.py has the faster form.
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    let t = z, s = z;
    for (let n = 1; n < 60; n++) {
      t *= -z * z / n;
      s += t / (2 * n + 1);
    }
    return Math.sign(x) * s * 2 / Math.sqrt(Math.PI);
  }
  let f = 0;
  for (let n = 60; n > 0; n--) f = n / 2 / (z + f);
  return Math.sign(x) * (1 - Math.exp(-z * z) / (z + f) / Math.sqrt(Math.PI));
}
const phi = (x) => 0.5 * (1 + erf(x * Math.SQRT1_2));
const sigmoid = (z) => 1 / (1 + Math.exp(-z));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const SELU_ALPHA = 1.6732632423543772, SELU_SCALE = 1.0507009873554805;
const pointwise = {
  linear: (z) => z,
  relu: (z, a) => Math.min(z > 0 ? z : num(a.slope) * z, num(a.top) ?? Infinity),
  sigmoid,
  tanh: (z) => Math.tanh(z),
  elu: (z, a) => (z > 0 ? z : num(a.alpha) * Math.expm1(z)),
  gelu: (z) => z * phi(z),
  silu: (z) => z * sigmoid(z),
  mish: (z) => z * Math.tanh(softplus(z)),
  softplus,
  softsign: (z) => z / (1 + Math.abs(z)),
  selu: (z) => SELU_SCALE * (z > 0 ? z : SELU_ALPHA * Math.expm1(z)),
  hard_sigmoid: (z) => Math.min(Math.max(z / 6 + 0.5, 0), 1),
  exponential: (z) => Math.exp(z),
};
const slopes = {
  linear: () => 1,
  relu: (z, y, a) => (num(a.top) !== undefined && y >= num(a.top) ? 0 : y > 0 ? 1 : num(a.slope)),
  sigmoid: (z, y) => y * (1 - y),
  tanh: (z, y) => 1 - y * y,
  elu: (z, y, a) => (y > 0 ? 1 : y + num(a.alpha)),
  gelu: (z) => phi(z) + z * Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI),
  silu: (z) => sigmoid(z) * (1 + z * (1 - sigmoid(z))),
  mish: (z) => Math.tanh(softplus(z)) + z * (1 - Math.tanh(softplus(z)) ** 2) * sigmoid(z),
  softplus: (z) => sigmoid(z),
  softsign: (z, y) => (1 - Math.abs(y)) ** 2,
  selu: (z, y) => (y > 0 ? SELU_SCALE : y + SELU_SCALE * SELU_ALPHA),
  hard_sigmoid: (z, y) => (y > 0 && y < 1 ? 1 / 6 : 0),
  exponential: (z, y) => y,
};
const slopeText = {
  linear: () => "1", sigmoid: () => "y·(1 − y)", tanh: () => "1 − y²", gelu: () => "Φ(z) + z·Φ′(z)",
  relu: (a) => `1 where the output is above 0, else ${fmt(num(a.slope))}`,
  elu: (a) => `1 where y > 0, else y + ${fmt(num(a.alpha))}`,
  silu: () => "σ(z)·(1 + z·(1 − σ(z)))", mish: () => "t + z·(1 − t²)·σ(z), t being tanh(softplus(z))",
  softplus: () => "σ(z)", softsign: () => "(1 − |y|)²",
  selu: () => `${fmt(SELU_SCALE)} where y > 0, else y + ${fmt(SELU_SCALE * SELU_ALPHA)}`,
  hard_sigmoid: () => "1/6 where 0 < y < 1, else 0", exponential: () => "y",
};
// Small differences of larger numbers: what they are rounded to is judged by those.
const ROUNDED = ["gelu", "elu", "silu", "mish", "softplus", "softsign", "selu", "hard_sigmoid"];

const MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Concatenate"];
const knownMerge = (l) => MERGES.includes(L[l].kind);

function rowOf(t, index) {
  return range(t.shape[t.rank - 1]).map((i) => t.get(...index.slice(0, -1), i));
}
function softmaxOf(row) {
  const max = Math.max(...row), exp = row.map((z) => Math.exp(z - max)), sum = exp.reduce((a, b) => a + b, 0);
  return { max, exp, sum, p: exp.map((e) => e / sum) };
}

// y from z, which is x of a layer that is an activation.
function actForward(l, index) {
  const a = L[l].act, z = T(l, "z");
  if (!a || !z) return null;
  const rec = T(l, "y").get(...index), v = z.get(...index), name = `y${at(index)}`;
  if (a.name === "softmax") {
    const row = rowOf(z, index), k = index[index.length - 1];
    if (row.includes(undefined)) return null;
    const s = softmaxOf(row);
    return { name, text: `exp(${fmt(row[k])} − ${bracket(s.max)}) / ${fmt(s.sum)}`, value: s.p[k], rec };
  }
  if (a.name === "log_softmax") {
    const row = rowOf(z, index), k = index[index.length - 1];
    if (row.includes(undefined)) return null;
    const s = softmaxOf(row), text = `${fmt(row[k])} − ${bracket(s.max)} − log(${fmt(s.sum)})`;
    return { name, text, value: row[k] - s.max - Math.log(s.sum), rec, mag: 1 };
  }
  if (!pointwise[a.name]) return { name, text: `${a.name}: recorded; this page does not know the function`, rec };
  const mag = ROUNDED.includes(a.name) ? 1e-2 : 0;
  return { name, text: `${a.name}(${fmt(v)})`, value: known(v, pointwise[a.name](v, a)), rec, mag };
}

function targetOf(k) {
  const t = tensor(D.target), s = D.loss_function.config.label_smoothing || 0;
  return t.get(k) * (1 - s) + s / (D.loss_function.class_name === "BinaryCrossentropy" ? 2 : t.shape[0]);
}
// How many values the loss is the mean of: those of the images, unless it is their sum.
const summed = () => D.loss_function.config.reduction === "sum";
const divisor = () => (summed() ? 1 : N);
// A loss that this page can work out: one vector of classes an image, and none of them left out.
function plainLoss() {
  const { axis, ignore_class } = D.loss_function.config;
  return T(LOSS - 1, "y").rank === 1 && [undefined, -1, 1].includes(axis) && (ignore_class ?? null) === null;
}
const categorical = () => /^(Sparse)?CategoricalCrossentropy$/.test(D.loss_function.class_name);
const onLogits = () => L[LOSS - 1].fused || D.loss_function.config.from_logits;
const clipped = (v) => Math.min(Math.max(v, 1e-7), 1 - 1e-7);

// The gradient of the loss with respect to the network's output (or its logits), element k of this image.
function lossGradient(k) {
  const last = LOSS - 1, y = T(last, "y"), rec = T(last, "dy").get(k), logits = onLogits();
  const name = (logits ? "dz" : "dy") + at([k]), kind = D.loss_function.class_name;
  if (!plainLoss()) return { name, text: "recorded", rec };
  const M = divisor(), K = y.shape[0], t = targetOf(k), scores = rowOf(L[last].fused ? T(last, "z") : y, [0]);
  if (categorical()) {
    const mass = range(K).reduce((a, i) => a + targetOf(i), 0);
    if (logits) {
      const p = softmaxOf(scores).p[k];
      return { name, text: `(${fmt(p)} − ${bracket(t)}) / ${M}`, value: (p * mass - t) / M, rec, mag: (p + t) / M };
    }
    const sum = scores.reduce((a, b) => a + b, 0), p = clipped(scores[k] / sum);
    const inside = (i) => {
      const q = Math.fround(scores[i] / sum);
      return q >= Math.fround(1e-7) && q <= Math.fround(1 - 1e-7) ? 1 : 0;
    };
    const massIn = range(K).reduce((a, i) => a + targetOf(i) * inside(i), 0);
    const text = `(${fmt(massIn)} − ${bracket(t)} / ${fmt(p)}) / (${fmt(sum)} · ${M})`;
    return { name, text, value: (massIn - t * inside(k) / p) / (sum * M), rec, mag: (massIn + t / p) / M };
  }
  const outputs = M * K;
  if (kind === "BinaryCrossentropy") {
    if (logits) {
      const p = pointwise.sigmoid(scores[k]);
      return { name, text: `(${fmt(p)} − ${bracket(t)}) / ${outputs}`, value: (p - t) / outputs, rec,
        mag: (p + t) / outputs };
    }
    const q = y.get(k), p = clipped(q), value = p === q ? (p - t) / (p * (1 - p)) / outputs : 0;
    return { name, text: `(${fmt(p)} − ${bracket(t)}) / (p(1 − p)) / ${outputs}`, value, rec, mag: 1e-4 / outputs };
  }
  const plain = tensor(D.target).get(k), d = y.get(k) - plain, mag = (Math.abs(y.get(k)) + Math.abs(plain)) / outputs;
  if (kind === "MeanSquaredError") {
    const text = `2 · (${fmt(y.get(k))} − ${bracket(plain)}) / ${outputs}`;
    return { name, text, value: 2 * d / outputs, rec, mag };
  }
  if (kind === "MeanAbsoluteError") return { name, text: `sign(${fmt(d)}) / ${outputs}`,
    value: Math.sign(d) / outputs, rec };
  return { name, text: "recorded: a loss that this page does not know", rec };
}

function lossOfImage() {
  const last = LOSS - 1, y = T(last, "y"), kind = D.loss_function.class_name, K = y.shape[0];
  const logits = onLogits(), scores = rowOf(L[last].fused ? T(last, "z") : y, [0]);
  if (categorical()) {
    const p = D.label === undefined ? undefined : logits ? softmaxOf(scores).p[D.label] : y.get(D.label);
    const text = p === undefined ? "−Σ t · log p" : `−log(${fmt(p)})`;
    if (logits) {
      const s = softmaxOf(scores), lse = Math.log(s.sum);
      const value = range(K).reduce((a, i) => a - targetOf(i) * (scores[i] - s.max - lse), 0);
      return { text, value, mag: 1 + Math.max(...scores.map((v) => Math.abs(v - s.max))) };
    }
    const sum = scores.reduce((a, b) => a + b, 0);
    const value = range(K).reduce((a, i) => a - targetOf(i) * Math.log(clipped(scores[i] / sum)), 0);
    return { text, value, mag: 1 };
  }
  if (kind === "BinaryCrossentropy") {
    const one = (z, t) => (logits ? Math.max(z, 0) - z * t + Math.log1p(Math.exp(-Math.abs(z)))
      : -(t * Math.log(clipped(z)) + (1 - t) * Math.log1p(-clipped(z))));
    const value = range(K).reduce((a, i) => a + one(scores[i], targetOf(i)), 0) / K;
    return { text: "mean of −(t·log p + (1 − t)·log(1 − p))", value, mag: 1 };
  }
  if (kind === "MeanSquaredError" || kind === "MeanAbsoluteError") {
    const f = kind === "MeanSquaredError" ? (d) => d * d : Math.abs;
    const value = range(K).reduce((a, i) => a + f(y.get(i) - tensor(D.target).get(i)), 0) / K;
    return { text: `mean of ${kind === "MeanSquaredError" ? "(y − target)²" : "|y − target|"}`, value, mag: 1e-2 };
  }
  return { text: "recorded: a loss that this page does not know" };
}
function lossSteps() {
  const losses = tensor(D.losses), times = summed() ? N : 1; // a sum is kept as what its mean is: each value times N
  const own = plainLoss() && losses.rank === 1 ? lossOfImage() : { text: "recorded" };
  const steps = [{ name: "loss of this image", ...own, rec: losses.get(D.image) / times }];
  if (losses.rank !== 1) return steps;
  const sum = range(N).reduce((a, n) => a + losses.get(n) / times, 0), penalty = num(D.penalty), mean = sum / divisor();
  const text = `(sum of ${count(N, "loss", "losses")} = ${fmt(sum)})` + (summed() ? "" : ` / ${N}`) +
    (penalty ? ` + penalty ${fmt(penalty)}` : "");
  steps.push({ name: "loss of the batch", text, value: mean + penalty, rec: num(D.loss), mag: Math.abs(mean) });
  return steps;
}

// dz of a layer with an activation, from dy.
function actBackward(l, index) {
  const a = L[l].act, dz = T(l, "dz"), dy = T(l, "dy"), name = `dz${at(index)}`;
  if (!a || !dz || a.name === "linear") return null;
  const rec = dz.get(...index);
  if (L[l].fused) {
    return { ...lossGradient(index[0]), name, rec, note: `${a.name} and the loss are differentiated as one` };
  }
  const g = dy.get(...index), y = T(l, "y");
  if (a.name === "softmax") {
    const p = rowOf(y, index), d = rowOf(dy, index), k = index[index.length - 1];
    if (d.includes(undefined) || p.includes(undefined)) return null;
    const inner = p.reduce((s, v, i) => s + v * d[i], 0), size = p.reduce((s, v, i) => s + Math.abs(v * d[i]), 0);
    const mag = Math.abs(p[k]) * (Math.abs(d[k]) + size);
    return { name, text: `${fmt(p[k])} · (${fmt(d[k])} − ${bracket(inner)})`, value: p[k] * (d[k] - inner), rec, mag };
  }
  if (a.name === "log_softmax") {
    const row = rowOf(T(l, "z"), index), d = rowOf(dy, index), k = index[index.length - 1];
    if (d.includes(undefined) || row.includes(undefined)) return null;
    const p = softmaxOf(row).p[k], all = d.reduce((s, v) => s + v, 0), size = d.reduce((s, v) => s + Math.abs(v), 0);
    return { name, text: `${fmt(d[k])} − ${fmt(p)} · ${bracket(all)}`, value: d[k] - p * all, rec, mag: size };
  }
  const yv = y.get(...index);
  if (!slopes[a.name]) return { name, text: `${a.name}: recorded; this page does not know its slope`, rec };
  if (g === undefined || yv === undefined) return null;
  const slope = slopes[a.name](T(l, "z").get(...index), yv, a), mag = a.name === "relu" ? 0 : Math.abs(g);
  return { name, text: `${fmt(g)} · ${bracket(slope)}`, value: g * slope, rec, mag };
}

// ---- windows ------------------------------------------------------------------------------------------------------

const start = (o, axis, g) => o * g.s[axis] - g.pads[axis][0];
// Which taps of which windows reach input row i: [{o, k}] with o * stride - top + k * dilation = i.
function reach(i, axis, g, out) {
  const hits = [];
  for (let k = 0; k < g.k[axis]; k++) {
    const o = i + g.pads[axis][0] - k * g.d[axis];
    if (o >= 0 && o % g.s[axis] === 0 && o / g.s[axis] < out) hits.push({ o: o / g.s[axis], k });
  }
  return hits;
}
// How many cells of im2col's matrix hold a copy of a pixel; the others are zeros of the padding.
function copies(l) {
  const g = L[l].geo, [H, W, C] = T(l, "x").shape, y = T(l, "y").shape;
  const along = (size, axis) => range(y[axis]).reduce((a, o) => a + range(g.k[axis])
    .filter((k) => start(o, axis, g) + k * g.d[axis] >= 0 && start(o, axis, g) + k * g.d[axis] < size).length, 0);
  return { pixels: H * W * C, cells: y[0] * y[1] * g.k[0] * g.k[1] * C, copies: along(H, 0) * along(W, 1) * C };
}
// The pixels of the network's input on which an element depends: [[first, last] of the rows, of the columns], which
// may reach beyond the edge; null where it is all of them. size: how many pixels, away from the edge.
function receptiveField(l, rows, columns) {
  if (l === INPUT) return [rows, columns];
  const q = L[l], fields = q.inputs.map((source, k) => {
    if (source !== INPUT && T(source, "y").rank !== 3) return null;
    if (["Flatten", "Dense", "GlobalAveragePooling2D", "GlobalMaxPooling2D"].includes(q.kind)) return null;
    const before = source === INPUT ? picture() : T(source, "y"), moved = !q.geo && !q.pads;
    if (q.kind === "Conv2DTranspose" || (moved && [0, 1].some((k) => before.shape[k] !== T(l, "y").shape[k]))) {
      return null; // its windows are those of the way back; or pixels are elsewhere
    }
    const seen = [rows, columns].map(([low, high], axis) => {
      if (q.geo) return [start(low, axis, q.geo), start(high, axis, q.geo) + (q.geo.k[axis] - 1) * q.geo.d[axis]];
      const pad = q.pads ? q.pads[axis][0] : 0;
      return [low - pad, high - pad];
    });
    return receptiveField(source, ...seen);
  });
  if (fields.includes(null)) return null;
  return [0, 1].map((axis) => [Math.min(...fields.map((f) => f[axis][0])), Math.max(...fields.map((f) => f[axis][1]))]);
}
function fieldSize(l) {
  if (l !== INPUT && T(l, "y").rank !== 3) return null;
  const field = receptiveField(l, [0, 0], [0, 0]);
  return field && field.map(([low, high]) => high - low + 1);
}
// The sizes that lead there: of each layer with a window, on the way from the input; where branches meet, along the
// one that sees most.
function fieldSteps(l) {
  const way = [], sees = (k) => (k === INPUT ? 1 : fieldSize(k)?.[0] ?? Infinity);
  for (let k = l; k !== INPUT; k = L[k].inputs.reduce((a, j) => (sees(j) > sees(a) ? j : a))) way.unshift(k);
  const jump = [1, 1], rows = [];
  for (const k of way) {
    const g = L[k].geo;
    if (g) rows.push({ l: k, k: g.k, s: g.s, d: g.d, jump: [...jump], size: fieldSize(k) });
    if (g) [0, 1].forEach((axis) => { jump[axis] *= g.s[axis]; });
  }
  return rows;
}

// ---- convolution and dense ----------------------------------------------------------------------------------------

// Which channels a convolution joins: all, those of a group, or (depthwise) one of the input with some of the output.
function joining(l) {
  const w = T(l, "p/w"), deep = L[l].kind === "DepthwiseConv2D", ins = w.shape[2],
    outs = w.shape[3] / (L[l].config.groups || 1), from = (first, n) => range(n).map((k) => first + k);
  const group = (k, size) => Math.floor(k / size);
  return {
    deep, all: !deep && (L[l].config.groups || 1) === 1,
    seen: (o) => (deep ? [group(o, outs)] : from(group(o, outs) * ins, ins)), // by an output channel
    fed: (c) => from((deep ? c : group(c, ins)) * outs, outs), // by an input channel
    weight: (kh, kw, c, o) => (deep ? [kh, kw, c, o % outs] : [kh, kw, c % ins, o]),
    ends: ([a, b]) => (deep ? [a, a * outs + b] : [group(b, outs) * ins + a, b]), // of a weight
  };
}
function convTerms(l, [oh, ow, o]) {
  const g = L[l].geo, x = T(l, "x"), w = T(l, "p/w"), [H, W] = x.shape, terms = [], joined = joining(l);
  for (let kh = 0; kh < g.k[0]; kh++) for (let kw = 0; kw < g.k[1]; kw++) {
    const i = start(oh, 0, g) + kh * g.d[0], j = start(ow, 1, g) + kw * g.d[1];
    const out = i < 0 || j < 0 || i >= H || j >= W;
    for (const c of joined.seen(o)) {
      const xn = out ? "padding" : `x${at([i, j, c])}`, place = joined.weight(kh, kw, c, o);
      terms.push(product(out ? 0 : x.get(i, j, c), xn, w.get(...place), `w${at(place)}`, { kh, kw, c, i, j, out }));
    }
  }
  return terms;
}
// Of a transposed convolution: the pixels of x whose stamp reaches output pixel (i, j).
function stampTerms(l, [i, j, o]) {
  const g = L[l].geo, x = T(l, "x"), w = T(l, "p/w"), [H, W, C] = x.shape, terms = [];
  for (const a of reach(i, 0, g, H)) for (const b of reach(j, 1, g, W)) for (let c = 0; c < C; c++) {
    terms.push(product(x.get(a.o, b.o, c), `x${at([a.o, b.o, c])}`, w.get(a.k, b.k, o, c),
      `w${at([a.k, b.k, o, c])}`, { kh: a.k, kw: b.k, c, i: a.o, j: b.o }));
  }
  return terms;
}
function denseTerms(l, index) {
  const x = T(l, "x"), w = T(l, "p/w"), o = index[index.length - 1], head = index.slice(0, -1);
  return range(w.shape[0]).map((i) =>
    product(x.get(...head, i), `x${at([...head, i])}`, w.get(i, o), `w${at([i, o])}`, { i }));
}
function linear(l, index) {
  const terms = ({ Dense: denseTerms, Conv2DTranspose: stampTerms }[L[l].kind] || convTerms)(l, index);
  const b = T(l, "p/b"), bias = b ? b.get(index[index.length - 1]) : 0, s = total(terms);
  const sum = terms.length <= 9 ? terms.map((t) => `${bracket(t.a)}·${bracket(t.b)}`).join(" + ")
    : `${fmt(s.sum)} (Σ of ${whole(terms.length)} products)`;
  return {
    name: `${activation(l) === "linear" ? "y" : "z"}${at(index)}`, text: sum + (b ? ` + bias ${bracket(bias)}` : ""),
    terms, bias: b ? bias : undefined, sum: s.sum, value: known(s.sum, s.sum + bias), rec: T(l, "z").get(...index),
    mag: s.mag + Math.abs(bias),
  };
}

// What each output pixel that saw input pixel (i, j) sends back, in the order in which col2im adds it.
function convDx(l, [i, j, c]) {
  const g = L[l].geo, dz = dzOf(l), w = T(l, "p/w"), joined = joining(l), terms = [];
  for (const a of reach(i, 0, g, dz.shape[0])) for (const b of reach(j, 1, g, dz.shape[1])) {
    const inner = joined.fed(c).map((o) => {
      const place = joined.weight(a.k, b.k, c, o);
      return product(dz.get(a.o, b.o, o), `dz${at([a.o, b.o, o])}`, w.get(...place), `w${at(place)}`);
    });
    const s = total(inner);
    terms.push({ v: s.sum ?? NaN, mag: s.mag, inner, oh: a.o, ow: b.o, kh: a.k, kw: b.k });
  }
  return terms.sort((p, q) => p.kh - q.kh || p.kw - q.kw);
}
// dx of a transposed convolution: what its stamp, laid on dz, sees there.
function stampDx(l, [i, j, c]) {
  const g = L[l].geo, dz = dzOf(l), w = T(l, "p/w"), [OH, OW, O] = dz.shape, terms = [];
  for (let kh = 0; kh < g.k[0]; kh++) for (let kw = 0; kw < g.k[1]; kw++) {
    const oh = start(i, 0, g) + kh * g.d[0], ow = start(j, 1, g) + kw * g.d[1];
    if (oh < 0 || ow < 0 || oh >= OH || ow >= OW) continue; // cut off
    const inner = range(O).map((o) => product(dz.get(oh, ow, o), `dz${at([oh, ow, o])}`, w.get(kh, kw, o, c),
      `w${at([kh, kw, o, c])}`));
    const s = total(inner);
    terms.push({ v: s.sum ?? NaN, mag: s.mag, inner, oh, ow, kh, kw });
  }
  return terms;
}
// The same number as a convolution: dz, with stride − 1 zeros between its numbers, under the kernel turned by 180°.
// One entry for each place of the turned kernel: there lies w[K − 1 − kh, K − 1 − kw], and under it row, column of the
// spread dz; both are 0 outside.
function turned(l, [i, j, c]) {
  const g = L[l].geo, dz = dzOf(l), w = T(l, "p/w"), O = dz.shape[2], [OH, OW] = dz.shape, places = [];
  for (let a = 0; a < g.k[0]; a++) for (let b = 0; b < g.k[1]; b++) {
    const kh = g.k[0] - 1 - a, kw = g.k[1] - 1 - b;
    const row = i + g.pads[0][0] - kh * g.d[0], column = j + g.pads[1][0] - kw * g.d[1];
    const oh = row / g.s[0], ow = column / g.s[1];
    const hit = Number.isInteger(oh) && Number.isInteger(ow) && oh >= 0 && ow >= 0 && oh < OH && ow < OW;
    const inner = range(O).map((o) => product(hit ? dz.get(oh, ow, o) : 0, hit ? `dz${at([oh, ow, o])}` : "0",
      w.get(kh, kw, c, o), `w${at([kh, kw, c, o])}`));
    const s = total(inner);
    places.push({ a, b, kh, kw, row, column, oh, ow, hit, inner, v: s.sum ?? NaN, mag: s.mag });
  }
  return places;
}
function dxStep(index, terms, text, rec) {
  const s = total(terms);
  const mag = terms.reduce((a, t) => a + (t.mag ?? Math.abs(t.v)), 0);
  return { name: `dx${at(index)}`, text, terms, value: Number.isNaN(s.sum) ? undefined : s.sum, rec, mag };
}
const sumText = (terms, what) => (terms.length && terms.length <= 9
  ? terms.map((t, k) => (k ? signed(t.v) : fmt(t.v))).join(" ") : `Σ of ${count(terms.length, what)}`);

// Winograd's F(2×2, 3×3): the tile of 2×2 outputs that holds (oh, ow), from 4×4 pixels. A. Lavin and S. Gray (2016).
const BT = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]];
const G = [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]];
const AT = [[1, 1, 1, 0], [0, 1, -1, -1]];
const times2 = (a, b) => a.map((row) => b[0].map((_, j) => row.reduce((s, v, k) => s + v * b[k][j], 0)));
const flip = (a) => a[0].map((_, j) => a.map((row) => row[j]));
const bothSides = (m, t) => times2(times2(m, t), flip(m));
const isWinograd = (l) => L[l].kind === "Conv2D" && joining(l).all && [...L[l].geo.k].every((k) => k === 3)
  && [...L[l].geo.s, ...L[l].geo.d].every((k) => k === 1);
function winograd(l, [oh, ow, o]) {
  const g = L[l].geo, x = T(l, "x"), w = T(l, "p/w"), [H, W, C] = x.shape, top = oh - oh % 2, left = ow - ow % 2;
  const pixel = (i, j, c) => (i < 0 || j < 0 || i >= H || j >= W ? 0 : x.get(i, j, c));
  const channels = range(C).map((c) => {
    const d = range(4).map((a) => range(4).map((b) => pixel(start(top, 0, g) + a, start(left, 1, g) + b, c)));
    const k = range(3).map((a) => range(3).map((b) => w.get(a, b, c, o)));
    const v = bothSides(BT, d), u = bothSides(G, k);
    return { d, k, v, u, m: u.map((row, a) => row.map((e, b) => e * v[a][b])) };
  });
  const m = range(4).map((a) => range(4).map((b) => channels.reduce((s, q) => s + q.m[a][b], 0)));
  const y = times2(times2(AT, m), flip(AT)), bias = T(l, "p/b")?.get(o) ?? 0;
  return { top, left, channels, m, y, bias, value: y[oh - top][ow - left] + bias };
}
function winogradStep(l, index) {
  const f = winograd(l, index), direct = linear(l, index), v = f.y[index[0] - f.top][index[1] - f.left];
  const text = `${fmt(v)} (of the tile, from 16 products a channel)`
    + (direct.bias === undefined ? "" : ` + bias ${bracket(f.bias)}`);
  return { ...direct, text, value: Number.isNaN(f.value) ? undefined : f.value, mag: direct.mag * 4 };
}
// F(2, 3) in one dimension: two outputs from four numbers d and three weights g, by 4 products instead of 6.
function winogradLine(d, g) {
  const m = [(d[0] - d[2]) * g[0], (d[1] + d[2]) * (g[0] + g[1] + g[2]) / 2, (d[2] - d[1]) * (g[0] - g[1] + g[2]) / 2,
    (d[1] - d[3]) * g[2]];
  const direct = [0, 1].map((k) => d[k] * g[0] + d[k + 1] * g[1] + d[k + 2] * g[2]);
  return { m, direct, y: [m[0] + m[1] + m[2], m[1] - m[2] - m[3]] };
}

// ---- sums over the batch ------------------------------------------------------------------------------------------

// What each image adds to a sum over the batch. Computed when the page was written; this image's is recomputed here.
function batchShares(l, name, index) {
  const t = T(l, "share/" + name);
  return t ? range(t.shape[0]).map((r) => ({ image: D.rows[r], v: t.get(r, ...index) })) : [];
}
const mine = () => D.rows.indexOf(D.image);
function shareSum(rows) {
  const value = rows.reduce((a, r) => a + (r.v ?? NaN), 0), mag = rows.reduce((a, r) => a + Math.abs(r.v || 0), 0);
  return { value: rows.some((r) => r.v === undefined) ? undefined : value, mag };
}
const sharesText = () => (N === 1 ? "the share of this image alone" : `Σ of the shares of ${count(N, "image")}`);

// The gradient of the loss with respect to one parameter.
function gradientSteps(l, name, index) {
  const g = T(l, "g/" + name), kind = L[l].kind, label = `d${name}${at(index)}`;
  if (!g) return [];
  const rec = g.get(...index), last = index[index.length - 1];
  const own = (text, s, share, more) =>
    ({ name: `share of image ${D.image}`, text, value: s.sum, rec: share[mine()]?.v, mag: s.mag, ...more });
  if (kind === "Dense") {
    const x = T(l, "bx"), dz = T(l, "bdz"), o = last, d = (n) => dz.get(n, o);
    const terms = range(dz.shape[0]).map((n) => (name === "w"
      ? product(x.get(n, index[0]), `x[${n}; ${index[0]}]`, d(n), `dz[${n}; ${o}]`, { n })
      : { v: d(n) ?? NaN, a: d(n), an: `dz[${n}; ${o}]`, b: 1, n }));
    const s = total(terms), text = `Σ over ${count(terms.length, "row")} of the batch`;
    return [{ name: label, text, terms, value: s.sum, rec, mag: s.mag }];
  }
  if (L[l].geo && weighty(l)) {
    // Of the two images one is seen through windows (large), and each window belongs to a pixel of the other (small).
    const geo = L[l].geo, x = T(l, "x"), dz = dzOf(l), stamped = kind === "Conv2DTranspose", terms = [];
    const [large, small] = stamped ? [dz, x] : [x, dz], [ln, sn] = stamped ? ["dz", "x"] : ["x", "dz"];
    const over = name === "b" ? dz : small, [OH, OW] = over.shape, [H, W] = large.shape;
    const [c, o] = name === "b" ? [] : stamped ? index.slice(2) : joining(l).ends(index.slice(2));
    for (let oh = 0; oh < OH; oh++) for (let ow = 0; ow < OW; ow++) {
      if (name === "b") {
        const d = dz.get(oh, ow, last);
        terms.push({ v: d ?? NaN, a: d, b: 1, oh, ow });
        continue;
      }
      const i = start(oh, 0, geo) + index[0] * geo.d[0], j = start(ow, 1, geo) + index[1] * geo.d[1];
      const out = i < 0 || j < 0 || i >= H || j >= W, xn = out ? "padding" : `${ln}${at([i, j, c])}`;
      terms.push(product(out ? 0 : large.get(i, j, c), xn, small.get(oh, ow, o), `${sn}${at([oh, ow, o])}`,
        { oh, ow, i, j, out }));
    }
    const shares = batchShares(l, name, index), sum = shareSum(shares);
    return [own(`Σ over ${OH} × ${OW} pixels`, total(terms), shares, { terms }),
      { name: label, text: sharesText(), shares, value: sum.value, rec, mag: sum.mag }];
  }
  if (kind === "BatchNormalization") {
    const what = name === "gamma" ? "dyx" : "dy", s = bnShare(l, what, last);
    const shares = batchShares(l, what, [last]), sum = shareSum(shares);
    const text = name === "gamma" ? "Σ of dy · x̂ over its pixels" : "Σ of dy over its pixels";
    return [own(text, s, shares), { name: label, text: sharesText(), shares, value: sum.value, rec,
      mag: sum.mag + (s.mag || 0) }];
  }
  return [{ name: label, text: `${kind}: recorded; this page does not work it out`, rec }];
}

// ---- batch normalisation, channel c -------------------------------------------------------------------------------

const spots = (t) => t.shape.slice(0, -1).reduce((a, b) => a * b, 1);
const bnStd = (l, c) => Math.sqrt(T(l, "var").get(c) + num(L[l].config.epsilon));
// This image's part of a sum over the channel: of x, (x − mean)², dy, dy · x̂, dx, dx · x̂.
function bnShare(l, what, c) {
  const x = T(l, "x"), dy = T(l, "dy"), dx = T(l, "dx"), mean = T(l, "mean").get(c), std = bnStd(l, c);
  let sum = 0, mag = 0;
  for (let p = 0; p < spots(x); p++) {
    const index = [...unflat(p, x.shape.slice(0, -1)), c], v = x.get(...index), hat = (v - mean) / std;
    const d = dy?.get(...index), e = dx?.get(...index);
    const term = { x: v, xx: (v - mean) ** 2, dy: d, dyx: d * hat, dx: e, dxx: e * hat }[what];
    if (term === undefined || Number.isNaN(term)) return {};
    sum += term;
    const apart = Math.abs(mean) / std * 1e-1;
    mag += Math.abs(term) + ({ dyx: Math.abs(d) * apart, dxx: Math.abs(e) * apart }[what] || 0);
  }
  return { sum, value: sum, mag };
}
function bnStats(l, c) {
  const x = T(l, "x"), M = N * spots(x), steps = [], mean = T(l, "mean").get(c), variance = T(l, "var").get(c);
  const state = (name, q) => T(l, `${q}/${name}`)?.get(c), here = at([c]);
  if (!L[l].of_batch) {
    const moving = (name, text, rec) =>
      ({ name: name + here, text: `the ${text}: a constant here`, value: state(`moving_${name}`, "r"), rec });
    return [moving("mean", "moving mean", mean), moving("variance", "moving variance", variance)];
  }
  const one = (name, what, text, short, rec) => {
    const shares = batchShares(l, what, [c]), sum = shareSum(shares), own = bnShare(l, what, c);
    steps.push({ name: name + here, text: `Σ over ${count(N, "image")} = ${fmt(sum.value)}, divided by N·H·W = ` +
      `${whole(M)}`,
      shares, value: known(sum.value, sum.value / M), rec, mag: sum.mag / M });
    steps.push({ name: `${short} of image ${D.image}`, text: count(spots(x), ...text), value: own.value,
      rec: shares[mine()]?.v, mag: own.mag });
  };
  one("mean", "x", ["number"], "Σ x", mean);
  one("variance", "xx", ["square"], "Σ (x − mean)²", variance);
  const m = num(L[l].config.momentum);
  for (const [name, now] of [["moving_mean", mean], ["moving_variance", variance]]) {
    const old = state(name, "r"), rec = state(name, "q");
    if (old === undefined || rec === undefined) continue;
    steps.push({ name: `${name}${here} after`, text: `${fmt(m)} · ${bracket(old)} + ${fmt(1 - m)} · ${bracket(now)}`,
      value: m * old + (1 - m) * now, rec, mag: Math.abs(m * old) + Math.abs((1 - m) * now) });
  }
  return steps;
}
function bnForward(l, index) {
  const c = index[index.length - 1], x = T(l, "x").get(...index), eps = num(L[l].config.epsilon);
  const gamma = T(l, "p/gamma")?.get(c) ?? 1, beta = T(l, "p/beta")?.get(c) ?? 0;
  const mean = T(l, "mean").get(c), v = T(l, "var").get(c), std = bnStd(l, c), hat = (x - mean) / std;
  const mm = T(l, "r/moving_mean")?.get(c), mv = T(l, "r/moving_variance")?.get(c);
  const step = {
    name: `y${at(index)}`, value: known(x, gamma * hat + beta), rec: T(l, "y").get(...index),
    text: `${fmt(gamma)} · (${fmt(x)} − ${bracket(mean)}) / √(${fmt(v)} + ${fmt(eps)}) + ${bracket(beta)}`,
    mag: Math.abs(gamma) * (Math.abs(x) + Math.abs(mean)) / std + Math.abs(beta),
  };
  return { c, x, gamma, beta, mean, v, std, hat, mm, mv, evaluation: gamma * (x - mm) / Math.sqrt(mv + eps) + beta,
    step };
}
// The two sums over the batch in dx. They are the gradients of β and γ, where the layer has these.
function bnSums(l, c) {
  const one = (name, what) => {
    const v = T(l, "g/" + name)?.get(c), each = shareSum(batchShares(l, what, [c]));
    return { value: v ?? each.value, mag: each.mag || Math.abs(v) };
  };
  return { dy: one("beta", "dy"), dyx: one("gamma", "dyx") };
}
function bnBackward(l, index) {
  const f = bnForward(l, index), M = N * spots(T(l, "x")), dy = T(l, "dy").get(...index), a = f.gamma / f.std;
  const rec = T(l, "dx").get(...index), name = `dx${at(index)}`;
  if (!L[l].of_batch) {
    const step = { name, text: `${fmt(a)} · ${bracket(dy)}`, value: known(dy, a * dy), rec };
    return { ...f, dy, a, direct: a * dy, step };
  }
  const s = bnSums(l, f.c);
  const direct = a * dy, viaMean = -a * s.dy.value / M, viaVar = -a * f.hat * s.dyx.value / M;
  const sum = direct + viaMean + viaVar, apart = (Math.abs(f.x) + Math.abs(f.mean)) / f.std;
  const mag = Math.abs(direct) + Math.abs(a) * s.dy.mag / M + Math.abs(a) * apart * s.dyx.mag / M;
  const text = `${fmt(direct)} ${signed(viaMean)} ${signed(viaVar)}`;
  const step = { name, text, value: Number.isNaN(sum) ? undefined : sum, rec, mag };
  return { ...f, dy, a, direct, viaMean, viaVar, sy: s.dy.value, sx: s.dyx.value, M, step };
}
// What the three terms are for: moving or stretching all numbers of a channel changes no output, so no loss.
function bnLaws(l, c) {
  if (!L[l].of_batch) return [];
  const dx = batchShares(l, "dx", [c]), dxx = batchShares(l, "dxx", [c]),
    size = shareSum(batchShares(l, "adx", [c])).value;
  const eps = num(L[l].config.epsilon), v = T(l, "var").get(c), sums = bnSums(l, c),
    gamma = T(l, "p/gamma")?.get(c) ?? 1;
  const left = gamma / bnStd(l, c) * sums.dyx.value * eps / (v + eps), own = bnShare(l, "dx", c);
  return [
    { name: `Σ dx, channel ${c}`, text: sharesText(), shares: dx, value: shareSum(dx).value, law: 0, mag: size,
      lawText: "0 but for rounding" },
    { name: `Σ dx·x̂, channel ${c}`, text: sharesText(), shares: dxx, value: shareSum(dxx).value, law: left,
      mag: 4 * size,
      lawText: `0 but for ε: γ/σ · Σ dy·x̂ · ε / (variance + ε) = ${fmt(left)}` },
    { name: `Σ dx of image ${D.image}`, text: count(spots(T(l, "x")), "number"), value: own.value,
      rec: dx[mine()]?.v, mag: own.mag },
  ];
}

// ---- pooling ------------------------------------------------------------------------------------------------------

function windowCells(l, [oh, ow, c]) {
  const g = L[l].geo, x = T(l, "x"), [H, W] = x.shape, cells = [];
  for (let kh = 0; kh < g.k[0]; kh++) for (let kw = 0; kw < g.k[1]; kw++) {
    const i = start(oh, 0, g) + kh, j = start(ow, 1, g) + kw, out = i < 0 || j < 0 || i >= H || j >= W;
    cells.push({ kh, kw, i, j, out, v: out ? undefined : x.get(i, j, c) });
  }
  return cells;
}
function poolForward(l, index) {
  const cells = windowCells(l, index), inside = cells.filter((c) => !c.out), rec = T(l, "y").get(...index);
  const missing = inside.some((c) => c.v === undefined), name = `y${at(index)}`, size = inside.length;
  if (L[l].kind === "AveragePooling2D") {
    const mag = inside.reduce((a, c) => a + Math.abs(c.v), 0), sum = inside.reduce((a, c) => a + c.v, 0);
    const text = `(${inside.map((c) => fmt(c.v)).join(" + ")}) / ${size}`;
    return { cells, steps: [{ name, text, value: missing ? undefined : sum / size, rec, mag }] };
  }
  let best = -1;
  cells.forEach((c, k) => { if (!c.out && (best < 0 || c.v > cells[best].v)) best = k; });
  const ties = missing ? 0 : inside.filter((c) => c.v === cells[best].v).length, { kh, kw } = cells[best];
  const text = `max(${inside.map((c) => fmt(c.v)).join(", ")})`, KW = L[l].geo.k[1];
  const winner = `kh·KW + kw = ${kh}·${KW} + ${kw}` + (ties > 1 ? `, the first of ${ties} equal ones` : "");
  return { cells, best, ties, steps: [
    { name, text, value: missing ? undefined : cells[best].v, rec },
    { name: "winner", text: winner, value: missing ? undefined : best, rec: T(l, "winner")?.get(...index) },
  ] };
}
function poolBackward(l, [i, j, c]) {
  const g = L[l].geo, dy = T(l, "dy"), w = T(l, "winner"), terms = [];
  for (const a of reach(i, 0, g, dy.shape[0])) for (const b of reach(j, 1, g, dy.shape[1])) {
    let share;
    if (w) {
      const k = w.get(a.o, b.o, c);
      share = known(k, k === a.k * g.k[1] + b.k ? 1 : 0);
    } else share = 1 / windowCells(l, [a.o, b.o, c]).filter((x) => !x.out).length;
    const why = w ? (share ? "wins" : "does not win") : "1 / count";
    terms.push(product(dy.get(a.o, b.o, c), `dy${at([a.o, b.o, c])}`, share, why, { oh: a.o, ow: b.o }));
  }
  const text = terms.length ? terms.map((t) => `${fmt(t.a)} · ${fmt(t.b)}`).join(" + ")
    : "no window reaches this pixel";
  return { terms, steps: [dxStep([i, j, c], terms, text, T(l, "dx").get(i, j, c))] };
}

// ---- where branches meet ------------------------------------------------------------------------------------------

// The place in input k that an element of the output reads: 0 along an axis on which the input is repeated.
const placeIn = (t, index) => index.map((v, k) => (t.shape[k] === 1 ? 0 : v));
// The elements of the output that read an element of an input: several where it is repeated.
function reached(t, index, shape) {
  return index.reduce((lists, v, k) => lists.flatMap((head) =>
    (t.shape[k] === 1 && shape[k] > 1 ? range(shape[k]) : [v]).map((w) => [...head, w])), [[]]);
}
// Of a concatenation: which input an element of the output is from, and its place there.
function concatenated(l, index) {
  const rank = index.length, axis = L[l].config.axis < 0 ? L[l].config.axis + rank : L[l].config.axis - 1;
  let k = 0, place = index[axis];
  while (place >= read(l, k).shape[axis]) {
    place -= read(l, k).shape[axis];
    k++;
  }
  return { k, axis, index: index.map((v, i) => (i === axis ? place : v)) };
}
// The numbers of the inputs that an element of the output is made of.
function mergeTerms(l, index) {
  if (L[l].kind === "Concatenate") {
    const from = concatenated(l, index);
    return [{ k: from.k, index: from.index, v: read(l, from.k).get(...from.index) }];
  }
  return L[l].inputs.map((_, k) => {
    const place = placeIn(read(l, k), index);
    return { k, index: place, v: read(l, k).get(...place) };
  });
}
function mergeForward(l, index) {
  const terms = mergeTerms(l, index), { kind } = L[l], v = terms.map((t) => t.v), n = terms.length;
  const list = (sign) => v.map((u, k) => (k ? `${sign} ${bracket(u)}` : fmt(u))).join(" ");
  const sum = v.reduce((a, u) => a + u, 0), mag = v.reduce((a, u) => a + Math.abs(u), 0);
  const [text, value] = {
    Add: [list("+"), sum], Subtract: [list("−"), v[0] - v[1]], Average: [`(${list("+")}) / ${n}`, sum / n],
    Multiply: [list("·"), v.reduce((a, u) => a * u, 1)], Maximum: [`max(${v.map(fmt).join(", ")})`, Math.max(...v)],
    Concatenate: [`x${terms[0].k}${at(terms[0].index)}, unchanged`, v[0]],
  }[kind];
  return { name: `y${at(index)}`, text, terms, value: v.includes(undefined) ? undefined : value, mag,
    rec: T(l, "y").get(...index) };
}
function mergeBackward(l, k, index) {
  const { kind, inputs } = L[l], x = read(l, k), dy = T(l, "dy"), n = inputs.length;
  const rec = T(l, `dx/${k}`).get(...index), name = `dx${k}${at(index)}`;
  if (!knownMerge(l)) return { name, text: `${kind}: a custom layer`, rec };
  if (kind === "Concatenate") {
    const { axis } = concatenated(l, index.map(() => 0)),
      before = range(k).reduce((a, i) => a + read(l, i).shape[axis], 0);
    const place = index.map((v, i) => (i === axis ? v + before : v));
    return { name, text: `dy${at(place)}, unchanged`, value: dy.get(...place), rec };
  }
  const factor = (place) => {
    if (kind === "Multiply") {
      return range(n).filter((i) => i !== k).reduce((a, i) => a * read(l, i).get(...placeIn(read(l, i), place)), 1);
    }
    const winner = kind === "Maximum" ? T(l, "winner").get(...place) : undefined;
    return { Add: 1, Subtract: k ? -1 : 1, Average: 1 / n, Maximum: known(winner, winner === k ? 1 : 0) }[kind];
  };
  const terms = reached(x, index, dy.shape).map((place) =>
    product(dy.get(...place), `dy${at(place)}`, factor(place), "factor"));
  const s = total(terms), only = terms[0], unchanged = terms.length === 1 && only.b === 1 && kind !== "Multiply";
  const text = unchanged ? `dy${at(index)}, unchanged` : terms.length === 1 ? `${fmt(only.a)} · ${bracket(only.b)}`
    : `Σ over the ${count(terms.length, "place")} at which it is repeated`;
  return { name, text, terms, value: s.sum, rec, mag: s.mag };
}
// dy of a layer whose output is read more than once: the sum of what its readers send back.
function sentBack(l, index) {
  return L.flatMap((q, r) => q.inputs.flatMap((source, k) => {
    if (source !== l) return [];
    const name = merges(r) ? `dx${k}` : "dx", v = T(r, merges(r) ? `dx/${k}` : "dx").get(...index);
    return [{ l: r, name, v: v ?? NaN, a: v, b: 1 }];
  }));
}
function meetStep(l, index) {
  const terms = sentBack(l, index), s = total(terms),
    text = terms.map((t, k) => (k ? signed(t.a) : fmt(t.a))).join(" ");
  return { name: `dy${at(index)}`, text, terms, value: s.sum, rec: T(l, "dy").get(...index), mag: s.mag };
}
const meets = (l) => l >= 0 && l < LOSS && sentBackCount(l) > 1;
const sentBackCount = (l) => L.reduce((a, q) => a + q.inputs.filter((source) => source === l).length, 0);
function paddingStep(l, name, t, index, step) {
  const [[top], [left]] = L[l].pads, from = [index[0] + step * top, index[1] + step * left, index[2]], [H, W] = t.shape;
  const inside = from[0] >= 0 && from[1] >= 0 && from[0] < H && from[1] < W;
  return { name, text: inside ? `${step < 0 ? "x" : "dy"}${at(from)}, unchanged` : "a zero of the border",
    value: inside ? t.get(...from) : 0 };
}

// ---- the update of one parameter ----------------------------------------------------------------------------------

// One step of an optimizer, as minicnn/optimizers/rules.py: {p, slots}. `step` counts from 1.
function rule(kind, config, state, p, g, lr, step) {
  const s = { ...state }, o = (name, v) => (config[name] === undefined || config[name] === null ? v
    : num(config[name]));
  const options = ["gradient_accumulation_steps", "ema_overwrite_frequency"].filter((name) => config[name]);
  if (options.length) return null;
  const decay = o("weight_decay", 0);
  if (decay) p -= p * decay * lr;
  if (kind === "SGD") {
    const mu = o("momentum", 0);
    if (!mu) return { p: p - lr * g, slots: {}, text: `${fmt(p)} − ${bracket(lr)} · ${bracket(g)}` };
    s.momentum = mu * s.momentum - lr * g;
    const move = config.nesterov ? mu * s.momentum - lr * g : s.momentum;
    return { p: p + move, slots: s, text: `${fmt(p)} ${signed(move)}` };
  }
  if (kind === "Adam" || kind === "AdamW") {
    const b1 = o("beta_1", 0.9), b2 = o("beta_2", 0.999), eps = o("epsilon", 1e-7);
    s.m += (1 - b1) * (g - s.m);
    s.v += (1 - b2) * (g * g - s.v);
    if (config.amsgrad) s.v_max = Math.max(s.v_max, s.v);
    const v = config.amsgrad ? s.v_max : s.v;
    const alpha = lr * Math.sqrt(1 - b2 ** step) / (1 - b1 ** step);
    const text = `${fmt(p)} − ${bracket(alpha)} · ${bracket(s.m)} / (√${fmt(v)} + ${fmt(eps)})`;
    return { p: p - alpha * s.m / (Math.sqrt(v) + eps), slots: s, alpha, text };
  }
  if (kind === "Muon") { // of a parameter that is no kernel: AdamW, whose arrays are sums
    const b1 = o("adam_beta_1", 0.9), b2 = o("adam_beta_2", 0.999), eps = o("epsilon", 1e-7);
    s.m_sum = b1 * s.m_sum + g;
    s.v_sum = b2 * s.v_sum + g * g;
    const m = (1 - b1) * s.m_sum, v = (1 - b2) * s.v_sum;
    const alpha = lr * o("adam_lr_ratio", 1) * Math.sqrt(1 - b2 ** step) / (1 - b1 ** step);
    const text = `${fmt(p)} − ${bracket(alpha)} · ${bracket(m)} / (√${fmt(v)} + ${fmt(eps)})`;
    return { p: p - alpha * m / (Math.sqrt(v) + eps), slots: s, alpha, text };
  }
  if (kind === "Nadam") {
    const b1 = o("beta_1", 0.9), b2 = o("beta_2", 0.999), eps = o("epsilon", 1e-7);
    s.m += (1 - b1) * (g - s.m);
    s.v += (1 - b2) * (g * g - s.v);
    const u = (t) => b1 * (1 - 0.5 * 0.96 ** t), done = range(step).reduce((a, t) => a * u(t + 1), 1);
    const ahead = s.m * u(step + 1) / (1 - done * u(step + 1)) + g * (1 - u(step)) / (1 - done);
    const below = Math.sqrt(s.v / (1 - b2 ** step)) + eps;
    const text = `${fmt(p)} − ${bracket(lr)} · ${bracket(ahead)} / ${fmt(below)}`;
    return { p: p - lr * ahead / below, slots: s, text };
  }
  if (kind === "Adagrad") {
    s.sum += g * g;
    const below = Math.sqrt(s.sum + o("epsilon", 1e-7));
    return { p: p - lr * g / below, slots: s, text: `${fmt(p)} − ${bracket(lr)} · ${bracket(g)} / ${fmt(below)}` };
  }
  if (kind === "Lion") {
    const b1 = o("beta_1", 0.9), b2 = o("beta_2", 0.99), c = b1 * s.m + (1 - b1) * g;
    s.m = b2 * s.m + (1 - b2) * g;
    return { p: p - lr * Math.sign(c), slots: s, text: `${fmt(p)} − ${bracket(lr)} · sign(${fmt(c)})` };
  }
  if (kind === "RMSprop") {
    const rho = o("rho", 0.9), eps = o("epsilon", 1e-7);
    s.v += (g * g - s.v) * (1 - rho);
    let spread = s.v;
    if (config.centered) {
      s.mean += (g - s.mean) * (1 - rho);
      spread -= s.mean * s.mean;
    }
    let move = lr * g / Math.sqrt(spread + eps);
    if (o("momentum", 0)) {
      s.momentum = o("momentum", 0) * s.momentum + move;
      move = s.momentum;
    }
    return { p: p - move, slots: s, text: `${fmt(p)} − ${bracket(move)}` };
  }
  return null;
}
// The argument of a layer that belongs to a parameter: kernel_regularizer, bias_constraint, gamma_regularizer, …
const option = (l, name, what) => {
  const c = L[l].config, prefix = { w: `kernel_${what}` in c ? "kernel" : "depthwise", b: "bias" }[name] || name;
  return c[`${prefix}_${what}`];
};
function updateSteps(l, name, index) {
  const o = D.optimizer, get = (group) => T(l, `${group}/${name}`)?.get(...index), p = get("p");
  const each = uses(l).map((k) => T(k, "g/" + name)?.get(...index)), g = each.reduce((a, v) => a + v, 0);
  const rec = get("u"), a = get("a"), steps = [], label = `${name}${at(index)}`;
  if (!o || rec === undefined) return steps;
  if (a === undefined) return [{ name: label, text: "frozen (trainable is False): unchanged", value: p, rec }];
  const decay = o.decay?.[`${L[uses(l)[0]].key}/${name}`];
  const config = { ...o.config, weight_decay: decay ?? o.config.weight_decay };
  const reg = option(l, name, "regularizer"), lr = num(o.learning_rate);
  let applied = g, text = each.map((v, k) => (k ? signed(v) : fmt(v))).join(" "), sure = true;
  if (reg) {
    const l2 = num(reg.config?.l2) || 0, l1 = num(reg.config?.l1) || 0;
    sure = ["L1", "L2", "L1L2"].includes(reg.class_name);
    applied += 2 * l2 * p + l1 * Math.sign(p);
    text += (l2 ? ` + 2 · ${fmt(l2)} · ${bracket(p)}` : "") + (l1 ? ` + ${fmt(l1)} · sign(${fmt(p)})` : "");
  }
  if (config.clipvalue) {
    applied = Math.min(Math.max(applied, -config.clipvalue), config.clipvalue);
    text += `, clipped to ±${fmt(config.clipvalue)}`;
  }
  if (config.clipnorm || config.global_clipnorm) {
    sure = false;
    text += ", then shortened to the largest allowed norm (of a whole array: as recorded)";
  }
  if (reg || config.clipvalue || !sure || each.length > 1) {
    const mag = each.reduce((m, v) => m + Math.abs(v), 0) + Math.abs(p) * (reg ? 1 : 0);
    steps.push({ name: "gradient as applied", text, value: sure ? applied : undefined, rec: a, mag });
  }
  const slots = {}, names = Object.keys(L[l].t).filter((key) => key.startsWith(`s/${name}/`));
  for (const key of names) slots[key.split("/")[2]] = T(l, key).get(...index);
  const whole = o.class_name === "Muon" && index.length > 1; // it moves a kernel as one matrix
  const r = whole ? null : rule(o.class_name, config, slots, p, a, lr, o.iterations + 1);
  if (whole) return [...steps, { name: label, text: `Muon moves the kernel as one matrix: recorded; in Python, ` +
    `t.explain("${L[uses(l)[0]].key}", "update:${name}", (${index.join(", ")})) shows how`, rec }];
  if (!r) return [...steps, { name: label, text: `${o.class_name}: recorded; this page does not know the rule, or ` +
    `one of its options`, rec }];
  for (const key of Object.keys(r.slots)) {
    const mag = key.startsWith("v") || key === "sum" ? Math.abs(slots[key]) + a * a * 1e-2 : Math.abs(slots[key])
      + Math.abs(a) * 1e-1;
    steps.push({ name: `${key} after`, text: slotText(o.class_name, key, config, slots, a, lr), value: r.slots[key],
      rec: T(l, `t/${name}/${key}`)?.get(...index), mag });
  }
  let value = r.p, words = r.text;
  const constraint = option(l, name, "constraint"), factor = T(l, "factor/" + name)?.get(...index);
  if (constraint && factor !== undefined) {
    value *= factor;
    words = `(${words}) · ${bracket(factor)} (${constraint.class_name})`;
  } else if (constraint?.class_name === "NonNeg") {
    value = Math.max(value, 0);
    words += ", not below 0 (NonNeg)";
  } else if (constraint) {
    value = undefined;
    words += ", then a custom constraint";
  }
  steps.push({ name: `${label} after`, text: words, value, rec, mag: Math.abs(p) });
  return steps;
}
function slotText(kind, key, c, s, g, lr) {
  if (kind === "SGD") return `${fmt(c.momentum)} · ${bracket(s.momentum)} − ${bracket(lr)} · ${bracket(g)}`;
  if (key === "v_max") return "the larger one of v_max and v";
  if (key === "m_sum") return `${fmt(c.adam_beta_1)} · ${bracket(s.m_sum)} + ${bracket(g)}`;
  if (key === "v_sum") return `${fmt(c.adam_beta_2)} · ${bracket(s.v_sum)} + ${bracket(g)}²`;
  if (key === "sum") return `${fmt(s.sum)} + ${bracket(g)}²`;
  if (kind === "Lion") return `${fmt(c.beta_2)} · ${bracket(s.m)} + (1 − ${fmt(c.beta_2)}) · ${bracket(g)}`;
  if (key === "m") return `${fmt(s.m)} + (1 − ${fmt(c.beta_1)}) · (${fmt(g)} − ${bracket(s.m)})`;
  if (key === "v") return `${fmt(s.v)} + (1 − ${fmt(c.beta_2 ?? c.rho)}) · (${fmt(g * g)} − ${bracket(s.v)})`;
  return "as in minicnn/optimizers/rules.py";
}

// ---- every number of the page goes through here -------------------------------------------------------------------

// what: "y"; "z" (before the activation), "act" (after it) and "winograd"; "dx", "turned" (dx of a convolution by the
// turned kernel), "dz"; "g:w" (gradient), "u:w" (update); "stats" and "laws" of a batch normalisation.
function explain(l, what, index) {
  if (l === INPUT) return [{ name: `x${at(index)}`, text: "a number of the picture", value: picture().get(...index),
    given: true }];
  if (l === LOSS) return what === "dx" ? [lossGradient(index[0])] : lossSteps();
  const one = (step) => (step ? [step] : []);
  if (what.startsWith("g:")) return gradientSteps(l, what.slice(2), index);
  if (what.startsWith("u:")) return updateSteps(l, what.slice(2), index);
  if (what === "stats") return bnStats(l, index[0]);
  if (what === "laws") return bnLaws(l, index[0]);
  if (what === "winograd") return [winogradStep(l, index)];
  if (what === "act") return one(actForward(l, index));
  if (what === "dz") return one(actBackward(l, index));
  if (what === "z") return [linear(l, index)];
  if (what === "dy") return [meetStep(l, index)];
  if (what === "y") return forwardSteps(l, index);
  if (merges(l)) return [mergeBackward(l, Number(what.slice(3)), index)]; // "dx/1"
  return T(l, "dx") ? backwardSteps(l, what, index) : [];
}
// A number for all, or one for each channel.
const ofChannel = (value, index) => num(Array.isArray(value) ? value[index[index.length - 1]] : value);
function forwardSteps(l, index) {
  const { kind, config } = L[l], x = read(l), rec = T(l, "y").get(...index), name = `y${at(index)}`;
  if (merges(l)) return [knownMerge(l) ? mergeForward(l, index) : { name, text: `${kind}: a custom layer`, rec }];
  if (kind === "ZeroPadding2D") return [{ ...paddingStep(l, name, x, index, -1), rec }];
  if (weighty(l)) return [linear(l, index), activation(l) !== "linear" && actForward(l, index)].filter(Boolean);
  if (L[l].act) return [actForward(l, index)].filter(Boolean);
  if (kind === "BatchNormalization") return [bnForward(l, index).step];
  if (kind === "MaxPooling2D" || kind === "AveragePooling2D") return poolForward(l, index).steps;
  if (kind === "GlobalAveragePooling2D") {
    const [H, W] = x.shape, c = index[index.length - 1];
    const terms = range(H * W).map((k) => ({ v: x.get(Math.floor(k / W), k % W, c) ?? NaN })), s = total(terms),
      n = H * W;
    const value = Number.isNaN(s.sum) ? undefined : s.sum / n;
    return [{ name, text: `(Σ of ${count(n, "number")} = ${fmt(s.sum)}) / ${n}`, value, rec, mag: s.mag / n }];
  }
  if (kind === "Flatten") {
    const from = unflat(index[0], x.shape);
    return [{ name, text: `x${at(from)}, unchanged`, value: x.get(...from), rec }];
  }
  if (kind === "Dropout") return [dropoutStep(l, name, index, x.get(...index), rec)];
  if (kind === "Rescaling") {
    const v = x.get(...index), scale = ofChannel(config.scale, index), offset = ofChannel(config.offset, index);
    const mag = Math.abs(v * scale) + Math.abs(offset);
    return [{ name, text: `${fmt(v)} · ${fmt(scale)} + ${bracket(offset)}`, value: v * scale + offset, rec, mag }];
  }
  return [{ name, text: `${kind}: recorded; this page does not work it out`, rec }];
}
function backwardSteps(l, what, index) {
  const { kind, config } = L[l], x = T(l, "x"), dy = T(l, "dy"), rec = T(l, "dx").get(...index),
    name = `dx${at(index)}`;
  if (L[l].geo && weighty(l)) {
    const terms = what === "turned" ? turned(l, index) : kind === "Conv2DTranspose" ? stampDx(l, index)
      : convDx(l, index);
    return [dxStep(index, terms, sumText(terms, what === "turned" ? "place of the kernel" : "contribution"), rec)];
  }
  if (kind === "Dense") {
    const w = T(l, "p/w"), dz = dzOf(l), head = index.slice(0, -1), i = index[index.length - 1];
    const terms = range(w.shape[1]).map((o) => product(dz.get(...head, o), `dz${at([...head, o])}`, w.get(i, o),
      `w${at([i, o])}`, { i: o }));
    return [dxStep(index, terms, `Σ over ${count(terms.length, "output")} of dz · w`, rec)];
  }
  if (L[l].act) {
    const s = actBackward(l, index);
    if (s) return [{ ...s, name, rec }];
    return activation(l) === "linear" ? [{ name, text: "dy, unchanged", value: dy.get(...index), rec }] : [];
  }
  if (kind === "BatchNormalization") return [bnBackward(l, index).step];
  if (kind === "MaxPooling2D" || kind === "AveragePooling2D") return poolBackward(l, index).steps;
  if (kind === "ZeroPadding2D") return [{ ...paddingStep(l, name, dy, index, 1), rec }];
  if (kind === "GlobalAveragePooling2D") {
    const d = dy.get(...(dy.rank === 1 ? [] : [0, 0]), index[2]), n = x.shape[0] * x.shape[1];
    return [{ name, text: `${fmt(d)} / ${n}`, value: d / n, rec }];
  }
  if (kind === "Flatten") {
    const f = flatOf(index, x.shape);
    return [{ name, text: `dy[${f}], unchanged`, value: dy.get(f), rec }];
  }
  if (kind === "Dropout") return [dropoutStep(l, name, index, dy.get(...index), rec)];
  if (kind === "Rescaling") {
    const v = dy.get(...index), scale = ofChannel(config.scale, index);
    return [{ name, text: `${fmt(v)} · ${bracket(scale)}`, value: v * scale, rec }];
  }
  return [{ name, text: `${kind}: recorded; this page does not work it out`, rec }];
}
function dropoutStep(l, name, index, v, rec) {
  const mask = T(l, "mask"), keep = mask ? mask.get(...index) : 1, rate = num(L[l].config.rate);
  if (!mask) return { name, text: `${fmt(v)}: nothing is dropped`, value: v, rec };
  const text = keep ? `${fmt(v)} · 1 / (1 − ${fmt(rate)})` : `${fmt(v)} · 0: dropped`;
  return { name, text, value: v === undefined || keep === undefined ? undefined : v * keep / (1 - rate), rec };
}

// ---- the gradient check -------------------------------------------------------------------------------------------

const allowed = (c) => 1e-3 * Math.abs(num(c.exact)) + num(c.noise);
function checkRows(c) {
  const exact = num(c.exact), error = (q) => Math.abs(q - exact) / Math.max(Math.abs(q), Math.abs(exact), 1e-30);
  return D.steps.map((s, k) => {
    const h = num(s), [a, b] = c.float64[k].map(num), [p, q] = c.float32[k].map(num);
    const quotient64 = (a - b) / (2 * h), quotient32 = (p - q) / (2 * h);
    return { h, plus: a, minus: b, quotient64, quotient32, error64: error(quotient64), error32: error(quotient32) };
  });
}
const bestRow = (c) => checkRows(c).reduce((a, b) => (b.error64 < a.error64 ? b : a));
function checkStep(c) {
  const best = bestRow(c), text = `(${best.plus.toPrecision(12)} − ${best.minus.toPrecision(12)}) / (2 · ` +
    `${bracket(best.h)})`;
  return { name: `d${c.param}${at(c.index)}`, text, value: best.quotient64, rec: num(c.recorded),
    mag: allowed(c) / TOLERANCE };
}

// ---- the self-test ------------------------------------------------------------------------------------------------

// Elements of a tensor that are embedded: a systematic sample, ends and middle included.
function sample(t, size, choice) {
  // choice: only these places of the last axis.
  const found = [], last = t.rank - 1;
  for (const part of t.parts) {
    const there = (v) => !part.places[last] || part.places[last][v] >= 0;
    const lists = part.at.map((at, k) => (k === last && choice ? choice.filter(there) : at));
    const sizes = lists.map((list, k) => (list ? list.length : t.shape[k])), all = sizes.reduce((a, b) => a * b, 1);
    let step = Math.max(1, Math.floor(all / size));
    if (step > 7 && step % 2 === 0) step++; // an odd stride does not stay in one channel
    for (let f = Math.floor(step / 3), n = 0; f < all && n < size; f += step, n++) {
      found.push(unflat(f, sizes).map((v, k) => (lists[k] ? lists[k][v] : v)));
    }
  }
  return found;
}
// Where maps are trimmed to a window, its middle is where all operands are there.
function centre(t, choice) {
  if (t.rank !== 3 || t.whole) return [];
  const [H, W, C] = t.shape, channels = (choice || [0, 1, C - 1, Math.floor(C / 2)]).filter((c) => c < C);
  return channels.slice(0, 6).flatMap((c) =>
    [-1, 0, 1].map((d) => [Math.floor(H / 2) + d, Math.floor(W / 2) - d, c]));
}
function selftest() {
  const results = [];
  const line = (layer, what) => {
    const r = { layer, what, checks: 0, skipped: 0, bad: 0 };
    results.push(r);
    return r;
  };
  const note = (r, step, what) => {
    const verdict = step.given ? "given" : judge(step);
    if (verdict === "given") return;
    if (verdict === "none") r.skipped++;
    else r.checks++;
    if (verdict !== "bad") return;
    r.bad++;
    r.first = r.first || `${what} ${step.name}: ${step.value} here, ${step.law ?? step.rec} recorded`;
  };
  const run = (r, l, what, list) => {
    for (const index of list) for (const step of explain(l, what, index)) note(r, step, what);
  };
  for (let l = 0; l < L.length; l++) {
    const { key, kind } = L[l], many = weighty(l) ? 40 : 80,
      inner = (t, choice) => [...sample(t, many, choice), ...centre(t, choice)];
    const forward = line(key, "forward"), outputs = inner(T(l, "y"), weighty(l) ? L[l].out : null);
    run(forward, l, "y", outputs);
    if (isWinograd(l)) run(forward, l, "winograd", outputs.slice(0, 20));
    if (kind === "BatchNormalization") run(forward, l, "stats", sample(T(l, "mean"), 8));
    if (!hasBackward) continue;
    const backward = line(key, "backward");
    if (meets(l)) run(backward, l, "dy", sample(T(l, "dy"), many));
    if (merges(l)) {
      for (const k of range(L[l].inputs.length)) {
        if (T(l, `dx/${k}`)) run(backward, l, `dx/${k}`, inner(T(l, `dx/${k}`), null));
      }
      continue;
    }
    const inputs = inner(T(l, "dx"), weighty(l) ? L[l].in : null);
    run(backward, l, "dx", inputs);
    if (kind === "Conv2D" && joining(l).all) run(backward, l, "turned", inputs);
    if (T(l, "dz") && L[l].act && activation(l) !== "linear") run(backward, l, "dz", sample(T(l, "dz"), many));
    if (kind === "BatchNormalization") run(backward, l, "laws", sample(T(l, "mean"), 8));
    for (const name of learned(l)) run(backward, l, "g:" + name, sample(T(l, "g/" + name), 24));
    if (!params(l).length) continue;
    const update = line(key, "update");
    for (const name of params(l)) if (T(l, "u/" + name)) run(update, l, "u:" + name, sample(T(l, "u/" + name), 40));
  }
  if (D.losses !== undefined) {
    const r = line("loss", "forward and backward");
    run(r, LOSS, "y", [[]]);
    if (T(LOSS - 1, "y").rank === 1) run(r, LOSS, "dx", range(Math.min(T(LOSS - 1, "y").shape[0], 50)).map((k) => [k]));
  }
  for (const c of D.check) note(line(L[c.layer].key, `gradient check of ${c.param}${at(c.index)}`), checkStep(c),
    "check");
  return results;
}

