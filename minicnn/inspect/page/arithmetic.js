// ---- the arithmetic: a number from its operands -------------------------------------------------------------------
// A step of an explanation: {name, text, terms, value, rec, mag}. value is computed here, rec is the recorded number;
// mag is the size of what was added up, against which rounding is judged.

const TOL = 2e-5;
function judge(step) {
  if (step.rec === undefined || step.value === undefined || Number.isNaN(step.value)) {
    const both = step.rec !== undefined && Number.isNaN(step.rec) && Number.isNaN(step.value);
    return both ? "ok" : "none";
  }
  if (step.value === step.rec) return "ok";
  const size = Math.max(Math.abs(step.value), Math.abs(step.rec), step.mag || 0);
  return Math.abs(step.value - step.rec) <= TOL * size + 1e-37 ? "ok" : "bad";
}
function total(terms) {
  let sum = 0, mag = 0;
  for (const t of terms) { sum += t.v; mag += Math.abs(t.v); }
  return { sum: Number.isNaN(sum) && terms.some((t) => t.a === undefined || t.b === undefined) ? undefined : sum, mag };
}
const product = (a, an, b, bn, more) => ({ a, an, b, bn, v: a === undefined || b === undefined ? NaN : a * b, ...more });
const bracket = (v) => (v < 0 ? `(${fmt(v)})` : fmt(v));
const at = (index) => "[" + index.join(", ") + "]";

function erf(x) {
  // W. J. Cody's idea in S. Moshier's form is in minicnn/kernels/activations.py; a series and a fraction do here.
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) { let t = z, s = z; for (let n = 1; n < 60; n++) { t *= -z * z / n; s += t / (2 * n + 1); } return Math.sign(x) * s * 2 / Math.sqrt(Math.PI); }
  let f = 0;
  for (let n = 60; n > 0; n--) f = n / 2 / (z + f);
  return Math.sign(x) * (1 - Math.exp(-z * z) / (z + f) / Math.sqrt(Math.PI));
}
const phi = (x) => 0.5 * (1 + erf(x * Math.SQRT1_2));
const pointwise = {
  linear: (z) => z,
  relu: (z, a) => { const y = z > 0 ? z : (num(a.slope) || 0) * z; return num(a.top) === undefined ? y : Math.min(y, num(a.top)); },
  sigmoid: (z) => 1 / (1 + Math.exp(-z)),
  tanh: (z) => Math.tanh(z),
  elu: (z, a) => (z > 0 ? z : (a.alpha ?? 1) * Math.expm1(z)),
  gelu: (z) => z * phi(z),
};
const slopes = {
  linear: () => 1,
  relu: (z, y, a) => (num(a.top) !== undefined && y >= num(a.top) ? 0 : y > 0 ? 1 : num(a.slope) || 0),
  sigmoid: (z, y) => y * (1 - y),
  tanh: (z, y) => 1 - y * y,
  elu: (z, y, a) => (y > 0 ? 1 : y + (a.alpha ?? 1)),
  gelu: (z) => phi(z) + z * Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI),
};
const slopeText = { linear: "1", relu: "1 where the output is above 0, else 0", sigmoid: "y·(1 − y)", tanh: "1 − y²", elu: "1 where y > 0, else y + α", gelu: "Φ(z) + z·Φ′(z)" };

function rowOf(t, index) {
  const k = t.shape[t.rank - 1], row = [];
  for (let i = 0; i < k; i++) row.push(t.get(...index.slice(0, -1), i));
  return row;
}
function softmaxOf(row) {
  const max = Math.max(...row), exp = row.map((z) => Math.exp(z - max)), sum = exp.reduce((a, b) => a + b, 0);
  return { max, exp, sum, p: exp.map((e) => e / sum) };
}

function actForward(l, index) {
  const a = L[l].act, z = T(l, "z"), y = T(l, "y");
  if (!a || !z) return null;
  const rec = y.get(...index), v = z.get(...index);
  if (a.name === "softmax") {
    const row = rowOf(z, index), k = index[index.length - 1];
    if (row.includes(undefined)) return null;
    const s = softmaxOf(row);
    return { name: "y", text: `exp(${fmt(row[k])} − ${bracket(s.max)}) / ${fmt(s.sum)}`, value: s.p[k], rec };
  }
  if (!pointwise[a.name]) return { name: "y", text: `${a.name}: a function of your own, not known to this page`, value: undefined, rec };
  return { name: "y", text: `${a.name}(${fmt(v)})`, value: v === undefined ? undefined : pointwise[a.name](v, a), rec, mag: a.name === "gelu" || a.name === "elu" ? 1e-2 : 0 };
}

function targetOf(k) {
  const t = tensor(D.target).get(k), s = (D.loss_function.config.label_smoothing) || 0;
  if (D.loss_function.class_name === "BinaryCrossentropy") return t * (1 - s) + s / 2;
  return t * (1 - s) + s / tensor(D.target).shape[0];
}

// The derivative of the loss by the network's output (or its logits), element k of this image.
function lossGradient(k) {
  const last = LOSS - 1, y = T(last, "y"), rec = T(last, "dy").get(k);
  if (y.rank !== 1 || !D.loss_function) return { name: "dy", text: "recorded", value: undefined, rec };
  const kind = D.loss_function.class_name, config = D.loss_function.config, K = y.shape[0], fused = L[last].fused;
  const classes = [...Array(K).keys()], t = targetOf(k), mass = classes.reduce((a, i) => a + targetOf(i), 0);
  const text = (p) => `(${fmt(p)} − ${bracket(t)}) / ${N}`;
  if (kind.endsWith("CategoricalCrossentropy") || kind === "CategoricalCrossentropy") {
    const z = fused ? rowOf(T(last, "z"), [0]) : rowOf(y, [0]);
    if (fused || config.from_logits) {
      const p = softmaxOf(z).p[k];
      return { name: "dlogits", text: text(p), value: (p * mass - t) / N, rec, mag: (p + t) / N };
    }
    const sum = z.reduce((a, b) => a + b, 0), clip = (v) => Math.min(Math.max(v, 1e-7), 1 - 1e-7);
    const inside = (i) => { const q = Math.fround(z[i] / sum); return q >= Math.fround(1e-7) && q <= Math.fround(1 - 1e-7) ? 1 : 0; };
    const massIn = classes.reduce((a, i) => a + targetOf(i) * inside(i), 0), p = clip(z[k] / sum);
    return { name: "dy", text: `(${fmt(massIn)} − ${bracket(t)} / ${fmt(p)}) / ${N}`, value: (massIn - t * inside(k) / p) / (sum * N), rec, mag: (massIn + t / p) / N };
  }
  if (kind === "BinaryCrossentropy") {
    const outputs = N * K;
    if (fused || config.from_logits) {
      const p = pointwise.sigmoid((fused ? T(last, "z") : y).get(k));
      return { name: "dlogits", text: `(${fmt(p)} − ${bracket(t)}) / ${outputs}`, value: (p - t) / outputs, rec, mag: (p + t) / outputs };
    }
    const q = y.get(k), p = Math.min(Math.max(q, 1e-7), 1 - 1e-7);
    return { name: "dy", text: `(${fmt(p)} − ${bracket(t)}) / (p(1 − p)) / ${outputs}`, value: p === q ? (p - t) / (p * (1 - p)) / outputs : 0, rec, mag: 1e-4 / outputs };
  }
  const plain = tensor(D.target).get(k), d = y.get(k) - plain;
  if (kind === "MeanSquaredError") return { name: "dy", text: `2 · (${fmt(y.get(k))} − ${bracket(plain)}) / ${N * K}`, value: 2 * d / (N * K), rec, mag: (Math.abs(y.get(k)) + Math.abs(plain)) / (N * K) };
  if (kind === "MeanAbsoluteError") return { name: "dy", text: `sign(${fmt(d)}) / ${N * K}`, value: Math.sign(d) / (N * K), rec };
  return { name: "dy", text: "a loss of your own", value: undefined, rec };
}

function lossSteps() {
  const last = LOSS - 1, y = T(last, "y"), losses = tensor(D.losses), rec = losses.get(D.image), steps = [];
  const kind = D.loss_function.class_name, config = D.loss_function.config;
  let value, text = "a loss of your own: recorded", mag = 0;
  if (y.rank === 1 && losses.rank === 1) {
    const K = y.shape[0], classes = [...Array(K).keys()], fused = L[last].fused;
    if (kind === "CategoricalCrossentropy" || kind === "SparseCategoricalCrossentropy") {
      if (fused || config.from_logits) {
        const z = rowOf(fused ? T(last, "z") : y, [0]), s = softmaxOf(z), lse = Math.log(s.sum);
        value = classes.reduce((a, i) => a - targetOf(i) * (z[i] - s.max - lse), 0);
        mag = 1 + Math.max(...z.map((v) => Math.abs(v - s.max)));
      } else {
        const p = rowOf(y, [0]), sum = p.reduce((a, b) => a + b, 0);
        value = classes.reduce((a, i) => a - targetOf(i) * Math.log(Math.min(Math.max(p[i] / sum, 1e-7), 1 - 1e-7)), 0);
        mag = 1;
      }
      const p = D.label === undefined ? undefined : (config.from_logits ? softmaxOf(rowOf(y, [0])).p[D.label] : y.get(D.label));
      text = p === undefined ? "−Σ t · log p" : `−log(${fmt(p)})`;
    } else if (kind === "BinaryCrossentropy") {
      const logits = fused || config.from_logits, z = rowOf(fused ? T(last, "z") : y, [0]);
      value = classes.reduce((a, i) => {
        const t = targetOf(i), q = Math.min(Math.max(z[i], 1e-7), 1 - 1e-7);
        return a + (logits ? Math.max(z[i], 0) - z[i] * t + Math.log1p(Math.exp(-Math.abs(z[i]))) : -(t * Math.log(q) + (1 - t) * Math.log1p(-q)));
      }, 0) / K;
      mag = 1; text = "mean of −(t·log p + (1 − t)·log(1 − p))";
    } else if (kind === "MeanSquaredError" || kind === "MeanAbsoluteError") {
      const f = kind === "MeanSquaredError" ? (d) => d * d : Math.abs;
      value = classes.reduce((a, i) => a + f(y.get(i) - tensor(D.target).get(i)), 0) / K;
      mag = 1e-2; text = kind === "MeanSquaredError" ? "mean of (y − target)²" : "mean of |y − target|";
    }
  }
  steps.push({ name: "loss of this image", text, value, rec, mag });
  if (losses.rank === 1) {
    let sum = 0;
    for (let n = 0; n < N; n++) sum += losses.get(n);
    steps.push({ name: "loss of the batch", text: `(sum of ${N} losses = ${fmt(sum)}) / ${N}` + (num(D.penalty) ? ` + penalty ${fmt(num(D.penalty))}` : ""), value: sum / N + num(D.penalty), rec: num(D.loss), mag: Math.abs(sum / N) });
  }
  return steps;
}

// dz of a layer with an activation, from dy. `index` without the batch axis.
function actBackward(l, index) {
  const a = L[l].act, dz = T(l, "dz"), dy = T(l, "dy");
  if (!a || !dz || a.name === "linear") return null;
  const rec = dz.get(...index);
  if (L[l].fused) return { ...lossGradient(index[0]), name: "dz", rec, note: "softmax or sigmoid and the loss are differentiated as one" };
  const g = dy.get(...index), y = T(l, "y"), z = T(l, "z");
  if (a.name === "softmax") {
    const p = rowOf(y, index), d = rowOf(dy, index), k = index[index.length - 1];
    if (d.includes(undefined) || p.includes(undefined)) return null;
    const inner = p.reduce((s, v, i) => s + v * d[i], 0), mag = p.reduce((s, v, i) => s + Math.abs(v * d[i]), 0);
    return { name: "dz", text: `${fmt(p[k])} · (${fmt(d[k])} − ${bracket(inner)})`, value: p[k] * (d[k] - inner), rec, mag: Math.abs(p[k]) * (Math.abs(d[k]) + mag) };
  }
  if (!slopes[a.name] || g === undefined) return null;
  const yv = y.get(...index), zv = z.get(...index);
  if (yv === undefined) return null;
  const slope = slopes[a.name](zv, yv, a);
  return { name: "dz", text: `${fmt(g)} · ${bracket(slope)}`, value: g * slope, rec, mag: Math.abs(g) * (a.name === "relu" ? 0 : 1) };
}
const dzOf = (l) => T(l, "dz") || T(l, "dy");

// Which taps of which windows reach input row i: [{o, k}] with o * stride - top + k * dilation = i.
function reach(i, axis, g, out) {
  const hits = [];
  for (let k = 0; k < g.k[axis]; k++) {
    const o = i + g.pads[axis][0] - k * g.d[axis];
    if (o >= 0 && o % g.s[axis] === 0 && o / g.s[axis] < out) hits.push({ o: o / g.s[axis], k });
  }
  return hits;
}
const start = (o, axis, g) => o * g.s[axis] - g.pads[axis][0];

function convTerms(l, [oh, ow, o]) {
  const g = L[l].geo, x = T(l, "x"), w = T(l, "p/w"), [H, W, C] = x.shape, terms = [];
  for (let kh = 0; kh < g.k[0]; kh++) for (let kw = 0; kw < g.k[1]; kw++) {
    const i = start(oh, 0, g) + kh * g.d[0], j = start(ow, 1, g) + kw * g.d[1], out = i < 0 || j < 0 || i >= H || j >= W;
    for (let c = 0; c < C; c++) terms.push(product(out ? 0 : x.get(i, j, c), out ? "padding" : `x${at([i, j, c])}`, w.get(kh, kw, c, o), `w${at([kh, kw, c, o])}`, { kh, kw, c, i, j, out }));
  }
  return terms;
}
function denseTerms(l, index) {
  const x = T(l, "x"), w = T(l, "p/w"), o = index[index.length - 1], head = index.slice(0, -1), terms = [];
  for (let i = 0; i < w.shape[0]; i++) terms.push(product(x.get(...head, i), `x${at([...head, i])}`, w.get(i, o), `w${at([i, o])}`, { i }));
  return terms;
}
function linear(l, index) {
  const terms = L[l].kind === "Dense" ? denseTerms(l, index) : convTerms(l, index), b = T(l, "p/b"), o = index[index.length - 1];
  const s = total(terms), bias = b ? b.get(o) : 0;
  return { name: "z", text: (terms.length <= 9 ? terms.map((t) => `${bracket(t.a)}·${bracket(t.b)}`).join(" + ") : `Σ of ${terms.length} products`) + (b ? ` + bias ${bracket(bias)}` : ""), terms, bias: b ? bias : undefined, sum: s.sum, value: s.sum === undefined ? undefined : s.sum + bias, rec: T(l, "z").get(...index), mag: s.mag + Math.abs(bias) };
}

function convDx(l, [i, j, c]) {
  const g = L[l].geo, dz = dzOf(l), w = T(l, "p/w"), O = dz.shape[2], terms = [];
  for (const a of reach(i, 0, g, dz.shape[0])) for (const b of reach(j, 1, g, dz.shape[1])) {
    const inner = [];
    for (let o = 0; o < O; o++) inner.push(product(dz.get(a.o, b.o, o), `dz${at([a.o, b.o, o])}`, w.get(a.k, b.k, c, o), `w${at([a.k, b.k, c, o])}`));
    const s = total(inner);
    terms.push({ v: s.sum === undefined ? NaN : s.sum, mag: s.mag, inner, oh: a.o, ow: b.o, kh: a.k, kw: b.k });
  }
  terms.sort((p, q) => p.kh - q.kh || p.kw - q.kw); // the order in which col2im adds them
  return terms;
}

function batchShares(l, name, index) {
  // Sums over the batch: what each image adds. Recorded in Python, this image's is recomputed.
  const t = T(l, "share/" + name), rows = [];
  if (!t) return rows;
  for (let r = 0; r < t.shape[0]; r++) rows.push({ image: D.rows[r], v: t.get(r, ...index) });
  return rows;
}
const mine = () => D.rows.indexOf(D.image);
function shareSum(rows) {
  let value = 0, mag = 0;
  for (const r of rows) { value += r.v === undefined ? NaN : r.v; mag += Math.abs(r.v || 0); }
  return { value: Number.isNaN(value) && rows.some((r) => r.v === undefined) ? undefined : value, mag };
}

function gradientSteps(l, name, index) {
  // The loss's derivative by one parameter.
  const rec = T(l, "g/" + name)?.get(...index), steps = [], kind = L[l].kind;
  if (rec === undefined && !T(l, "g/" + name)) return steps;
  if (kind === "Dense") {
    const x = T(l, "bx"), dz = T(l, "bdz"), o = index[index.length - 1], terms = [];
    for (let n = 0; n < dz.shape[0]; n++) {
      if (name === "w") terms.push(product(x.get(n, index[0]), `x[${n}; ${index[0]}]`, dz.get(n, o), `dz[${n}; ${o}]`, { n }));
      else terms.push({ v: dz.get(n, o) ?? NaN, a: dz.get(n, o), an: `dz[${n}; ${o}]`, b: 1, n });
    }
    const s = total(terms);
    steps.push({ name: "d" + name, text: `Σ over ${terms.length} rows of the batch`, terms, value: s.sum, rec, mag: s.mag });
  } else if (kind === "Conv2D") {
    const g = L[l].geo, x = T(l, "x"), dz = dzOf(l), o = index[index.length - 1], terms = [];
    const [OH, OW] = dz.shape, [H, W] = x.shape;
    for (let oh = 0; oh < OH; oh++) for (let ow = 0; ow < OW; ow++) {
      const d = dz.get(oh, ow, o);
      if (name === "b") { terms.push({ v: d ?? NaN, a: d, b: 1, oh, ow }); continue; }
      const i = start(oh, 0, g) + index[0] * g.d[0], j = start(ow, 1, g) + index[1] * g.d[1], out = i < 0 || j < 0 || i >= H || j >= W;
      terms.push(product(out ? 0 : x.get(i, j, index[2]), out ? "padding" : `x${at([i, j, index[2]])}`, d, `dz${at([oh, ow, o])}`, { oh, ow, i, j, out }));
    }
    const s = total(terms), rows = batchShares(l, name, index), sum = shareSum(rows);
    steps.push({ name: `this image's share of d${name}`, text: `Σ over ${OH} × ${OW} output pixels`, terms, value: s.sum, rec: rows[mine()]?.v, mag: s.mag });
    steps.push({ name: "d" + name, text: `Σ of the shares of ${N} images`, shares: rows, value: sum.value, rec, mag: sum.mag });
  } else if (kind === "BatchNormalization") {
    const share = name === "gamma" ? "dyx" : "dy", c = index[0], rows = batchShares(l, share, [c]), sum = shareSum(rows), own = bnShare(l, share, c);
    steps.push({ name: `this image's share of d${name}`, text: name === "gamma" ? "Σ of dy · x̂ over its pixels" : "Σ of dy over its pixels", value: own.value, rec: rows[mine()]?.v, mag: own.mag });
    steps.push({ name: "d" + name, text: `Σ of the shares of ${N} images`, shares: rows, value: sum.value, rec, mag: sum.mag + (own.mag || 0) });
  }
  return steps;
}

// Batch normalisation, channel c.
const spots = (t) => t.shape.slice(0, -1).reduce((a, b) => a * b, 1);
function bnShare(l, what, c) {
  const x = T(l, "x"), dy = T(l, "dy"), n = spots(x), mean = T(l, "mean").get(c), std = Math.sqrt(T(l, "var").get(c) + L[l].config.epsilon);
  let value = 0, mag = 0;
  for (let p = 0; p < n; p++) {
    const index = [...unflat(p, x.shape.slice(0, -1)), c], v = x.get(...index), d = dy ? dy.get(...index) : undefined;
    const term = { x: v, xx: (v - mean) ** 2, dy: d, dyx: d * (v - mean) / std }[what];
    if (term === undefined || Number.isNaN(term)) return { value: undefined };
    value += term; mag += Math.abs(term) + (what === "dyx" ? Math.abs(d) * Math.abs(mean) / std * 1e-1 : 0);
  }
  return { value, mag };
}
function bnStats(l, c) {
  const x = T(l, "x"), M = N * spots(x), steps = [], from = L[l].of_batch;
  const state = (name, q) => T(l, `${q}/${name}`)?.get(c);
  if (from) {
    const rows = batchShares(l, "x", [c]), sum = shareSum(rows), own = bnShare(l, "x", c);
    const sq = batchShares(l, "xx", [c]), sumSq = shareSum(sq), ownSq = bnShare(l, "xx", c);
    steps.push({ name: "this image's Σ x", text: `${spots(x)} numbers`, value: own.value, rec: rows[mine()]?.v, mag: own.mag });
    steps.push({ name: "mean", text: `Σ over ${N} images = ${fmt(sum.value)}, divided by N·H·W = ${M}`, shares: rows, value: sum.value === undefined ? undefined : sum.value / M, rec: T(l, "mean").get(c), mag: sum.mag / M });
    steps.push({ name: "this image's Σ (x − mean)²", text: `${spots(x)} squares`, value: ownSq.value, rec: sq[mine()]?.v, mag: ownSq.mag });
    steps.push({ name: "variance", text: `Σ of squares = ${fmt(sumSq.value)}, divided by ${M}`, shares: sq, value: sumSq.value === undefined ? undefined : sumSq.value / M, rec: T(l, "var").get(c), mag: sumSq.mag / M });
    const m = L[l].config.momentum;
    for (const [name, batch] of [["moving_mean", "mean"], ["moving_variance", "var"]]) {
      const old = state(name, "r"), now = T(l, batch).get(c);
      if (old !== undefined && state(name, "q") !== undefined) steps.push({ name: name.replace("_", " ") + " after", text: `${m} · ${bracket(old)} + ${bracket(1 - m)} · ${bracket(now)}`, value: m * old + (1 - m) * now, rec: state(name, "q"), mag: Math.abs(m * old) + Math.abs((1 - m) * now) });
    }
  } else {
    steps.push({ name: "mean", text: "the running mean: a constant here", value: state("moving_mean", "r"), rec: T(l, "mean").get(c) });
    steps.push({ name: "variance", text: "the running variance: a constant here", value: state("moving_variance", "r"), rec: T(l, "var").get(c) });
  }
  return steps;
}
function bnForward(l, index) {
  const c = index[index.length - 1], x = T(l, "x").get(...index), eps = L[l].config.epsilon;
  const one = (t, v) => (t ? t.get(c) : v), gamma = one(T(l, "p/gamma"), 1), beta = one(T(l, "p/beta"), 0);
  const mean = T(l, "mean").get(c), v = T(l, "var").get(c), std = Math.sqrt(v + eps), hat = (x - mean) / std;
  const mm = T(l, "r/moving_mean")?.get(c), mv = T(l, "r/moving_variance")?.get(c);
  return { c, x, gamma, beta, mean, v, std, hat, evaluation: gamma * (x - mm) / Math.sqrt(mv + eps) + beta, mm, mv,
    step: { name: "y", text: `${fmt(gamma)} · (${fmt(x)} − ${bracket(mean)}) / √(${fmt(v)} + ${eps}) + ${bracket(beta)}`, value: x === undefined ? undefined : gamma * hat + beta, rec: T(l, "y").get(...index), mag: Math.abs(gamma) * (Math.abs(x) + Math.abs(mean)) / std + Math.abs(beta) } };
}
function bnBackward(l, index) {
  const f = bnForward(l, index), M = N * spots(T(l, "x")), dy = T(l, "dy").get(...index), a = f.gamma / f.std;
  const rec = T(l, "dx").get(...index);
  if (!L[l].of_batch) return { ...f, dy, direct: a * dy, step: { name: "dx", text: `${fmt(a)} · ${bracket(dy)}`, value: dy === undefined ? undefined : a * dy, rec } };
  // The sums over the batch are the gradients of β and γ, where the layer has these.
  const sums = (name, share) => { const v = T(l, "g/" + name)?.get(f.c), each = shareSum(batchShares(l, share, [f.c])); return { value: v ?? each.value, mag: each.mag || Math.abs(v) }; };
  const sy = sums("beta", "dy"), sx = sums("gamma", "dyx");
  const direct = a * dy, viaMean = -a * sy.value / M, viaVar = -a * f.hat * sx.value / M, sum = direct + viaMean + viaVar;
  return { ...f, dy, a, direct, viaMean, viaVar, sy: sy.value, sx: sx.value, M,
    step: { name: "dx", text: `${fmt(direct)} ${signed(viaMean)} ${signed(viaVar)}`, value: Number.isNaN(sum) ? undefined : sum, rec, mag: Math.abs(direct) + a * sy.mag / M + a * (Math.abs(f.x) + Math.abs(f.mean)) / f.std * sx.mag / M } };
}

// Pooling.
function windowCells(l, [oh, ow, c]) {
  const g = L[l].geo, x = T(l, "x"), [H, W] = x.shape, cells = [];
  for (let kh = 0; kh < g.k[0]; kh++) for (let kw = 0; kw < g.k[1]; kw++) {
    const i = start(oh, 0, g) + kh, j = start(ow, 1, g) + kw;
    const out = i < 0 || j < 0 || i >= H || j >= W;
    cells.push({ kh, kw, i, j, out, v: out ? undefined : x.get(i, j, c) });
  }
  return cells;
}
function poolForward(l, index) {
  const cells = windowCells(l, index), inside = cells.filter((c) => !c.out), rec = T(l, "y").get(...index);
  const missing = inside.some((c) => c.v === undefined);
  if (L[l].kind === "AveragePooling2D") {
    const mag = inside.reduce((a, c) => a + Math.abs(c.v), 0);
    return { cells, steps: [{ name: "y", text: `(${inside.map((c) => fmt(c.v)).join(" + ")}) / ${inside.length}`, value: missing ? undefined : inside.reduce((a, c) => a + c.v, 0) / inside.length, rec, mag }] };
  }
  let best = -1;
  cells.forEach((c, k) => { if (!c.out && (best < 0 || c.v > cells[best].v)) best = k; });
  const ties = missing ? 0 : inside.filter((c) => c.v === cells[best].v).length, w = T(l, "winner")?.get(...index);
  return { cells, best, ties, steps: [
    { name: "y", text: `max(${inside.map((c) => fmt(c.v)).join(", ")})`, value: missing ? undefined : cells[best].v, rec },
    { name: "winner", text: `position kh·KW + kw = ${cells[best].kh}·${L[l].geo.k[1]} + ${cells[best].kw}` + (ties > 1 ? `, the first of ${ties} equal ones` : ""), value: missing ? undefined : best, rec: w },
  ] };
}
function poolBackward(l, [i, j, c]) {
  const g = L[l].geo, dy = T(l, "dy"), w = T(l, "winner"), terms = [];
  for (const a of reach(i, 0, g, dy.shape[0])) for (const b of reach(j, 1, g, dy.shape[1])) {
    const d = dy.get(a.o, b.o, c);
    let share;
    if (w) { const k = w.get(a.o, b.o, c); share = k === undefined ? undefined : k === a.k * g.k[1] + b.k ? 1 : 0; }
    else share = 1 / windowCells(l, [a.o, b.o, c]).filter((x) => !x.out).length;
    terms.push(product(d, `dy${at([a.o, b.o, c])}`, share, w ? (share ? "wins" : "does not win") : "1 / count", { oh: a.o, ow: b.o }));
  }
  const s = total(terms);
  return { terms, steps: [{ name: "dx", text: terms.length ? terms.map((t) => fmt(t.v)).join(" + ") : "no window reaches this pixel", terms, value: s.sum, rec: T(l, "dx").get(i, j, c), mag: s.mag }] };
}

// The update of one parameter.
function rule(kind, config, state, p, g, lr, step) {
  // One step of an optimizer, as minicnn/optimizers.py: {p, slots}. `step` counts from 1.
  const s = { ...state }, o = (name, v) => (config[name] === undefined || config[name] === null ? v : num(config[name]));
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
    const alpha = lr * Math.sqrt(1 - b2 ** step) / (1 - b1 ** step);
    return { p: p - alpha * s.m / (Math.sqrt(s.v) + eps), slots: s, alpha, text: `${fmt(p)} − ${bracket(alpha)} · ${bracket(s.m)} / (√${fmt(s.v)} + ε)` };
  }
  if (kind === "RMSprop") {
    const rho = o("rho", 0.9), eps = o("epsilon", 1e-7);
    s.v += (g * g - s.v) * (1 - rho);
    let spread = s.v;
    if (config.centered) { s.mean += (g - s.mean) * (1 - rho); spread -= s.mean * s.mean; }
    let move = lr * g / Math.sqrt(spread + eps);
    if (o("momentum", 0)) { s.momentum = o("momentum", 0) * s.momentum + move; move = s.momentum; }
    return { p: p - move, slots: s, text: `${fmt(p)} − ${bracket(move)}` };
  }
  return null;
}
function updateSteps(l, name, index) {
  const o = D.optimizer, get = (group) => T(l, group + "/" + name)?.get(...index), p = get("p"), g = get("g"), steps = [];
  const rec = get("u");
  if (!o || rec === undefined) return steps;
  const a = get("a");
  if (a === undefined) { steps.push({ name: "after", text: "frozen (trainable is False): unchanged", value: p, rec }); return steps; }
  const config = o.config, reg = L[l].config[{ w: "kernel_regularizer", b: "bias_regularizer" }[name]];
  let applied = g, text = fmt(g), known = true;
  if (reg) {
    const r = reg.config || {}, l2 = num(r.l2) || 0, l1 = num(r.l1) || 0;
    known = ["L1", "L2", "L1L2"].includes(reg.class_name);
    applied += 2 * l2 * p + l1 * Math.sign(p);
    text += (l2 ? ` + 2 · ${l2} · ${bracket(p)}` : "") + (l1 ? ` + ${l1} · sign` : "");
  }
  if (config.clipvalue) { applied = Math.min(Math.max(applied, -config.clipvalue), config.clipvalue); text += `, clipped to ±${config.clipvalue}`; }
  if (config.clipnorm || config.global_clipnorm) { known = false; text += ", then shortened to the largest allowed norm (of a whole array: as recorded)"; }
  steps.push({ name: "gradient as applied", text, value: known ? applied : undefined, rec: a, mag: Math.abs(g) + Math.abs(p) * (reg ? 1 : 0) });
  const slots = {}, after = {};
  for (const key of Object.keys(L[l].t)) if (key.startsWith(`s/${name}/`)) slots[key.split("/")[2]] = T(l, key).get(...index);
  const r = rule(o.class_name, config, slots, p, a, num(o.learning_rate), o.iterations + 1);
  if (!r) { steps.push({ name: "after", text: `${o.class_name}: an optimizer of your own`, value: undefined, rec }); return steps; }
  for (const key of Object.keys(r.slots)) {
    after[key] = T(l, `t/${name}/${key}`)?.get(...index);
    steps.push({ name: key + " after", text: slotText(o.class_name, key, config, slots, a, num(o.learning_rate)), value: r.slots[key], rec: after[key], mag: key === "v" ? Math.abs(slots[key]) + a * a * 1e-2 : Math.abs(slots[key]) + Math.abs(a) * 1e-1 });
  }
  let value = r.p, words = r.text, mag = Math.abs(p);
  const constraint = L[l].config[{ w: "kernel_constraint", b: "bias_constraint" }[name]];
  if (constraint) {
    const factor = T(l, "factor/" + name)?.get(...index);
    if (factor !== undefined) { value *= factor; words = `(${words}) · ${bracket(factor)} (${constraint.class_name})`; }
    else if (constraint.class_name === "NonNeg") { value = Math.max(value, 0); words += ", not below 0 (NonNeg)"; }
    else { value = undefined; words += ", then a constraint of your own"; }
  }
  steps.push({ name: "after", text: words, value, rec, mag });
  return steps;
}
function slotText(kind, key, c, s, g, lr) {
  if (kind === "SGD") return `${c.momentum} · ${bracket(s.momentum)} − ${bracket(lr)} · ${bracket(g)}`;
  if (key === "m") return `${fmt(s.m)} + (1 − ${c.beta_1}) · (${fmt(g)} − ${bracket(s.m)})`;
  if (key === "v") return `${fmt(s.v)} + (1 − ${c.beta_2 ?? c.rho}) · (${fmt(g * g)} − ${bracket(s.v)})`;
  return "as in minicnn/optimizers.py";
}

// Every number of the page goes through here: what = "y", "dx", "g:w" (gradient), "u:w" (update), "stats" (batch norm).
function explain(l, what, index) {
  if (l === LOSS) return what === "dx" ? [lossGradient(index[0])] : lossSteps();
  const kind = L[l].kind, x = T(l, "x");
  if (what.startsWith("g:")) return gradientSteps(l, what.slice(2), index);
  if (what.startsWith("u:")) return updateSteps(l, what.slice(2), index);
  if (what === "stats") return bnStats(l, index[0]);
  if (what === "dz") { const s = actBackward(l, index); return s ? [s] : []; }
  if (what === "y") {
    const rec = T(l, "y").get(...index);
    if (kind === "Conv2D" || kind === "Dense") {
      const steps = [linear(l, index)], a = L[l].act.name === "linear" ? null : actForward(l, index);
      if (a) steps.push(a); else if (L[l].act.name === "linear") steps[0].name = "y";
      return steps;
    }
    if (L[l].act) { const s = actForward(l, index); return s ? [s] : []; }
    if (kind === "BatchNormalization") return [bnForward(l, index).step];
    if (kind === "MaxPooling2D" || kind === "AveragePooling2D") return poolForward(l, index).steps;
    if (kind === "GlobalAveragePooling2D") {
      const [H, W] = x.shape, terms = [];
      for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) terms.push(product(x.get(i, j, index[0]), `x${at([i, j, index[0]])}`, 1, ""));
      const s = total(terms);
      return [{ name: "y", text: `(Σ of ${H * W} numbers = ${fmt(s.sum)}) / ${H * W}`, value: s.sum === undefined ? undefined : s.sum / (H * W), rec, mag: s.mag / (H * W) }];
    }
    if (kind === "Flatten") { const from = unflat(index[0], x.shape); return [{ name: "y", text: `the number x${at(from)}, unchanged`, value: x.get(...from), rec }]; }
    if (kind === "Dropout") {
      const m = T(l, "mask"), v = x.get(...index), keep = m ? m.get(...index) : 1, f = m ? 1 / (1 - L[l].config.rate) : 1;
      return [{ name: "y", text: m ? (keep ? `${fmt(v)} · 1 / (1 − ${L[l].config.rate})` : `${fmt(v)} · 0: dropped`) : "evaluation: nothing is dropped", value: v === undefined || keep === undefined ? undefined : v * keep * f, rec }];
    }
    if (kind === "Rescaling") { const c = L[l].config, v = x.get(...index); return [{ name: "y", text: `${fmt(v)} · ${c.scale} + ${c.offset}`, value: v * c.scale + c.offset, rec, mag: Math.abs(v * c.scale) + Math.abs(c.offset) }]; }
    return [{ name: "y", text: `${kind}: a layer of your own; the page shows what was recorded`, value: undefined, rec }];
  }
  const dx = T(l, "dx"), dy = T(l, "dy");
  if (!dx) return [];
  const rec = dx.get(...index);
  if (kind === "Conv2D") {
    const terms = convDx(l, index), s = total(terms);
    return [{ name: "dx", text: `Σ of ${terms.length} contributions`, terms, value: Number.isNaN(s.sum) ? undefined : s.sum, rec, mag: terms.reduce((a, t) => a + t.mag, 0) }];
  }
  if (kind === "Dense") {
    const w = T(l, "p/w"), dz = dzOf(l), head = index.slice(0, -1), i = index[index.length - 1], terms = [];
    for (let o = 0; o < w.shape[1]; o++) terms.push(product(dz.get(...head, o), `dz${at([...head, o])}`, w.get(i, o), `w${at([i, o])}`, { i: o }));
    const s = total(terms);
    return [{ name: "dx", text: `Σ over ${terms.length} outputs of dz · w`, terms, value: s.sum, rec, mag: s.mag }];
  }
  if (L[l].act) { const s = actBackward(l, index); if (s) return [{ ...s, name: "dx", rec }]; return L[l].act.name === "linear" ? [{ name: "dx", text: "dy, unchanged", value: dy.get(...index), rec }] : []; }
  if (kind === "BatchNormalization") return [bnBackward(l, index).step];
  if (kind === "MaxPooling2D" || kind === "AveragePooling2D") return poolBackward(l, index).steps;
  if (kind === "GlobalAveragePooling2D") { const d = dy.get(index[2]), n = x.shape[0] * x.shape[1]; return [{ name: "dx", text: `${fmt(d)} / ${n}`, value: d / n, rec }]; }
  if (kind === "Flatten") { const f = flatOf(index, x.shape); return [{ name: "dx", text: `dy[${f}], unchanged`, value: dy.get(f), rec }]; }
  if (kind === "Dropout") {
    const m = T(l, "mask"), v = dy.get(...index), keep = m ? m.get(...index) : 1, f = m ? 1 / (1 - L[l].config.rate) : 1;
    return [{ name: "dx", text: m ? (keep ? `${fmt(v)} · 1 / (1 − ${L[l].config.rate})` : `${fmt(v)} · 0: dropped on the way forward`) : "unchanged", value: v === undefined || keep === undefined ? undefined : v * keep * f, rec }];
  }
  if (kind === "Rescaling") { const v = dy.get(...index); return [{ name: "dx", text: `${fmt(v)} · ${L[l].config.scale}`, value: v * L[l].config.scale, rec }]; }
  return [{ name: "dx", text: `${kind}: a layer of your own`, value: undefined, rec }];
}

// ---- the self-test ------------------------------------------------------------------------------------------------

// Elements of a tensor that are embedded: a systematic sample, ends and middle included.
function sample(t, count, choice) {
  // choice: only these places of the last axis.
  const found = [], last = t.rank - 1;
  for (const part of t.parts) {
    const lists = part.at.map((at, k) => (k === last && choice ? choice.filter((v) => !part.places[k] || part.places[k][v] >= 0) : at));
    const sizes = lists.map((list, k) => (list ? list.length : t.shape[k])), size = sizes.reduce((a, b) => a * b, 1);
    let step = Math.max(1, Math.floor(size / count));
    if (step > 7 && step % 2 === 0) step++; // an odd stride does not stay in one channel
    for (let f = Math.floor(step / 3), n = 0; f < size && n < count; f += step, n++) found.push(unflat(f, sizes).map((v, k) => (lists[k] ? lists[k][v] : v)));
  }
  return found;
}
function selftest() {
  const results = [];
  const run = (l, what, index, line) => {
    for (const step of explain(l, what, index)) {
      const verdict = judge(step);
      if (verdict === "none") { line.skipped++; continue; }
      line.checks++;
      if (verdict === "bad") { line.bad++; line.first = line.first || `${what}${at(index)} ${step.name}: ${step.value} here, ${step.rec} recorded`; }
    }
  };
  for (let l = 0; l < L.length; l++) {
    const line = (what) => { const r = { layer: L[l].key, what, checks: 0, skipped: 0, bad: 0 }; results.push(r); return r; };
    const many = L[l].kind === "Conv2D" || L[l].kind === "Dense" ? 40 : 80;
    const inner = (t, choice) => [...sample(t, many, choice), ...centre(t, choice)];
    let r = line("forward");
    for (const index of inner(T(l, "y"), weighty(l) ? L[l].out : null)) run(l, "y", index, r);
    if (L[l].kind === "BatchNormalization") for (const index of sample(T(l, "mean"), 8)) run(l, "stats", index, r);
    if (!backwardThere) continue;
    r = line("backward");
    for (const index of inner(T(l, "dx"), weighty(l) ? L[l].in : null)) run(l, "dx", index, r);
    if (T(l, "dz") && L[l].act && L[l].act.name !== "linear") for (const index of sample(T(l, "dz"), many)) run(l, "dz", index, r);
    for (const name of params(l)) if (T(l, "g/" + name)) for (const index of sample(T(l, "g/" + name), 24)) run(l, "g:" + name, index, r);
    if (!params(l).length) continue;
    r = line("update");
    for (const name of params(l)) if (T(l, "u/" + name)) for (const index of sample(T(l, "u/" + name), 40)) run(l, "u:" + name, index, r);
  }
  if (D.losses !== undefined) {
    const r = { layer: "loss", what: "forward and backward", checks: 0, skipped: 0, bad: 0 };
    results.push(r);
    run(LOSS, "y", [], r);
    if (T(LOSS - 1, "y").rank === 1) for (let k = 0; k < Math.min(T(LOSS - 1, "y").shape[0], 50); k++) run(LOSS, "dx", [k], r);
  }
  for (const c of D.check) {
    const r = { layer: L[c.layer].key, what: `gradient check of ${c.param}${at(c.index)}`, checks: 0, skipped: 0, bad: 0 };
    const best = checkRows(c).reduce((a, b) => (b.error64 < a.error64 ? b : a)), rec = num(c.recorded);
    r.checks++;
    if (!(Math.abs(best.quotient64 - rec) <= allowed(c))) { r.bad++; r.first = `${best.quotient64} numerically, ${rec} recorded`; }
    results.push(r);
  }
  return results;
}
const weighty = (l) => L[l].kind === "Conv2D" || L[l].kind === "Dense";
function centre(t, choice) {
  // Where maps are trimmed to a window, its middle is where all operands are there.
  if (t.rank !== 3 || t.whole) return [];
  const [H, W, C] = t.shape, channels = choice || [0, 1, C - 1, Math.floor(C / 2)], found = [];
  for (const c of channels.slice(0, 6)) for (const d of [-1, 0, 1]) if (c < C) found.push([Math.floor(H / 2) + d, Math.floor(W / 2) - d, c]);
  return found;
}
const allowed = (c) => 1e-3 * Math.abs(num(c.exact)) + num(c.noise);
function checkRows(c) {
  const exact = num(c.exact), error = (q) => Math.abs(q - exact) / Math.max(Math.abs(q), Math.abs(exact), 1e-30);
  return D.steps.map((s, k) => {
    const h = num(s), pair = (kind) => c[kind][k].map(num), [a, b] = pair("float64"), [p, q] = pair("float32");
    const quotient64 = (a - b) / (2 * h), quotient32 = (p - q) / (2 * h);
    return { h, plus: a, minus: b, quotient64, quotient32, error64: error(quotient64), error32: error(quotient32) };
  });
}

