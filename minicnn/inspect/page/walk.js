// The walk: stops in the order in which a step computes, each a state of the page and a sentence about it. A sentence
// is made when it is shown, from the state that the panel shows: so it stays true when another number is chosen there.

let STOPS = [];
const WEIGHT = D.story ? D.check[0] : null; // the weight that is followed: {layer, param, index, …}
const named = (what, index, l) => `${what}${at(index)} of ${keyOf(l)}`;
const isNow = (what, index, l, v) => `${named(what, index, l)} is ${fmt(v)}`;

function walkStops() {
  const stops = [], roles = visited(), x = picture();
  const add = (title, state, say) => stops.push({ title, state: { ...NOWHERE, ...state }, say });
  const visit = (kinds, l) => Object.keys(kinds).filter((role) => roles.get(role)?.includes(l))
    .forEach((role) => kinds[role](l, add));
  add("The picture is numbers", { l: INPUT, e: brightest(x) }, (e) =>
    `${isNow("x", e, INPUT, x.get(...e))}, one of ${times(x.shape)} = ${count(x.size, "number")}. All that follows ` +
    "is arithmetic with these, in one step of this run.");
  for (let l = 0; l < LOSS; l++) visit(forwardStops, l);
  if (D.losses === undefined) return stops;
  lossStops(add);
  for (let l = LOSS - 1; l >= 0; l--) visit(backwardStops, l);
  if (WEIGHT) storyStops(add);
  add("And again", { l: LOSS, d: "u" }, () => {
    const before = num(D.loss), after = num(D.loss_after), fell = after < before;
    return `After this step the loss of the same batch is ${fmt(after)}; it was ${fmt(before)}. ` +
      (fell ? "Training is this, many times, with one batch after another."
        : "It did not fall: this batch is one of many, and the optimizer remembers the others.");
  });
  return stops;
}
// Where the walk stops: one layer of each kind, and those that the story needs. role → layers.
function visited() {
  const first = (test) => L.findIndex(test), all = (test) => range(LOSS).filter((l) => test(L[l], l));
  const convs = all((q, l) => q.kind === "Conv2D" && joining(l).all),
    denses = all((q) => q.kind === "Dense"), own = WEIGHT?.layer;
  const conv = convs.includes(own) ? own : convs[0], dense = denses.at(-1);
  const curved = (l) => !["linear", "softmax"].includes(activation(l));
  const roles = new Map(), take = (role, ...layers) => roles.set(role, layers.filter((l) => l >= 0));
  take("conv", conv);
  take("winograd", conv);
  take("back", convs.find((l) => l > 0) ?? convs[0]);
  take("dense", dense, denses.includes(own) ? own : -1);
  const inside = [conv, dense, own].filter((l) => l >= 0 && curved(l));
  take("activation", first((q, l) => q.act && !weighty(l) && curved(l)), ...inside);
  take("softmax", first((q, l) => activation(l) === "softmax" && T(l, "y").rank === 1));
  take("norm", first((q) => q.kind === "BatchNormalization"));
  take("fork", ...all((q, l) => meets(l)).slice(0, 3));
  take("merge", ...MERGES.map((kind) => first((q, l) => q.kind === kind && merges(l))));
  take("pool", first((q, l) => q.geo && !weighty(l)));
  take("field", all((q, l) => q.geo && fieldSize(l)).at(-1));
  for (const kind of ["Dropout", "Flatten", "GlobalAveragePooling2D"]) take(kind, first((q) => q.kind === kind));
  return roles;
}
function brightest(t) {
  const list = sample(t, 400), size = (index) => Math.abs(t.get(...index) ?? 0);
  return list.reduce((a, index) => (size(index) > size(a) ? index : a), list[0]);
}
// Channels among which a number of the output is chosen: that of the followed weight, where it has one here.
const channelsHere = (l) => (WEIGHT?.layer === l ? [WEIGHT.index.at(-1)] : L[l].out);
const before = (l) => (activation(l) === "linear" ? "y" : "z"); // what the weighted sum of a layer is called
const isReLU = (l) => activation(l) === "relu" && !num(L[l].act.slope);
const largest = (l, name = "y") => best(l, name, T(l, name), weighty(l) && name === "y" ? L[l].out : null);
// A number of dx of a batch normalisation for which all its terms matter.
function telling(l, index) {
  const f = bnBackward(l, index);
  return L[l].of_batch ? Math.min(...[f.direct, f.viaMean, f.viaVar].map(Math.abs)) : Math.abs(f.direct);
}

const forwardStops = {
  conv(l, add) {
    const y = T(l, "y"), e = best(l, "y", y, channelsHere(l)), g = L[l].geo, b = T(l, "p/b");
    const K = T(l, "p/w").size / y.shape[2], sum = (e) => linear(l, e).value ?? T(l, "z").get(...e);
    const row = ([i, j]) => i * y.shape[1] + j;
    add("One number of a convolution", { l, v: "one", e }, (e) => {
      const bias = b ? `, plus the bias ${fmt(linear(l, e).bias)}` : "";
      return `${isNow(before(l), e, l, sum(e))}: a window of ${times(g.k)} pixels times a kernel, ` +
        `${count(K, "product")}${bias}.`;
    });
    add("All windows as one matrix", { l, v: "im2col", e }, (e) => {
      const n = copies(l), mean = fmt(n.copies / n.pixels);
      return `im2col writes the window of output pixel (${e[0]}, ${e[1]}) as row ${row(e)} of a matrix, which holds ` +
        `${mean} copies of each number on average.`;
    });
    add("A convolution is a matrix product", { l, v: "gemm", e }, (e) =>
      `Row ${row(e)} times column ${e[2]}: ${count(K, "product")}, added one by one, ${b ? "and the bias " : ""}give ` +
      `${named(before(l), e, l)}, ${fmt(sum(e))}.`);
  },
  winograd(l, add) {
    const e = isWinograd(l) && best(l, "winograd", T(l, "y"), channelsHere(l));
    if (!e || judge(winogradStep(l, e)) !== "ok") return;
    add("Six products, or four", { l, v: "line", e }, () => "Two neighbouring outputs of a row of weights cost 6 " +
      "products. Winograd's F(2, 3) makes them from 4, and sums that are cheap.");
    add("Sixteen products in place of 36", { l, v: "tile", e }, (e) => "The same in two directions: a tile of 4×4 " +
      `pixels gives 2×2 outputs. One of them is ${named(before(l), e, l)}, ${fmt(winogradStep(l, e).value)}.`);
  },
  dense(l, add) {
    const y = T(l, "y"), K = T(l, "p/w").shape[0], later = L.some((q, k) => k > l && q.kind === "Dense");
    const label = !later && l >= LOSS - 2 && y.rank === 1 && D.label !== undefined ? [D.label] : null;
    const there = label && explain(l, "y", label).every((s) => judge(s) !== "none");
    const inputs = K === 1 ? "its one input" : `all ${whole(K)} inputs`, bias = T(l, "p/b") ? ", plus a bias" : "";
    add(later ? "A weighted sum of everything" : "Everything comes together",
      { l, v: "one", e: there ? label : best(l, "y", y, channelsHere(l)) },
      (e) => `${isNow(before(l), e, l, T(l, "z").get(...e))}: a weighted sum of ${inputs}${bias}.`);
  },
  norm(l, add) {
    const mean = T(l, "mean"), variance = T(l, "var"), numbers = count(N * spots(T(l, "x")), "number");
    const ours = WEIGHT && L[l].inputs.includes(WEIGHT.layer) ? [WEIGHT.index.at(-1)] : null;
    const of = L[l].of_batch ? `: over ${numbers} of ${count(N, "image")}.` : ": the moving statistics.";
    add("Batch normalisation: the statistics", { l, v: "stats", e: ours || best(l, "stats", mean, null) }, (e) =>
      `${isNow("mean", e, l, mean.get(...e))}, ${isNow("variance", e, l, variance.get(...e))}${of}`);
    add("Batch normalisation: one number", { l, v: "one", e: best(l, "y", T(l, "y"), ours) }, (e) => {
      const f = bnForward(l, e);
      return `${isNow("y", e, l, f.step.value)}; in evaluation, with the moving statistics, it would be ` +
        `${fmt(f.evaluation)}.`;
    });
  },
  activation(l, add) {
    const inside = weighty(l), z = T(l, "z"), y = T(l, "y"), relu = isReLU(l), what = inside ? "act" : "y";
    const low = ["relu", "elu", "gelu"].includes(activation(l)); // what is below 0 is where something happens
    const score = low ? (index) => -z.get(...index) : undefined;
    const e = best(l, what, y, inside ? channelsHere(l) : null, score);
    add(relu ? "Switch off what is negative" : "The activation", { l, v: inside ? "act" : "one", e }, (e) => {
      const head = isNow(inside ? "z" : "x", e, l, z.get(...e)), out = fmt(y.get(...e));
      if (!relu) return `${head}; ${activation(l)} makes it y${at(e)} = ${out}.`;
      const does = z.get(...e) > 0 ? ", above 0: ReLU keeps it." : `, not above 0: ReLU makes it y${at(e)} = ${out}.`;
      return `${head}${does} Here ${percent(share(y, (v) => v === 0))} of the outputs are 0.`;
    });
  },
  fork(l, add) {
    const after = readers(l).map(keyOf), many = { 2: "two", 3: "three", 4: "four" }[after.length] || "several";
    add("The way divides", { l, v: "one", e: largest(l) }, (e) => `${isNow("y", e, l, T(l, "y").get(...e))}. It is ` +
      `read by ${after.slice(0, -1).join(", ")} and ${after.at(-1)}: ${many} branches begin.`);
  },
  merge(l, add) {
    const from = (t) => keyOf(L[l].inputs[t.k]), joined = L[l].kind === "Concatenate";
    add(joined ? "Branches side by side" : "Branches meet", { l, v: "one", e: largest(l) }, (e) => {
      const terms = mergeTerms(l, e), [t] = terms, parts = terms.map((u) => `${fmt(u.v)} from ${from(u)}`).join(", ");
      return joined ? `${named("y", e, l)} is x${t.k}${at(t.index)}, unchanged: it comes from ${from(t)}.`
        : `${isNow("y", e, l, T(l, "y").get(...e))}: ${parts}.`;
    });
  },
  pool(l, add) {
    const [H, W] = T(l, "x").shape, y = T(l, "y"), [OH, OW] = y.shape;
    const what = L[l].kind === "MaxPooling2D" ? "the largest number" : "the mean";
    add("Fewer pixels", { l, v: "one", e: largest(l) }, (e) => `${isNow("y", e, l, y.get(...e))}, ${what} of its ` +
      `window of ${times(L[l].geo.k)}: ${H} × ${W} pixels become ${OH} × ${OW}.`);
  },
  field(l, add) {
    add("What a number can see", { l, v: "field", e: largest(l) }, ([i, j]) => `Output pixel (${i}, ${j}) of ` +
      `${keyOf(l)} depends on ${times(fieldSize(l))} pixels of the picture, framed below: its receptive field. ` +
      "Deeper layers see more.");
  },
  Dropout(l, add) {
    const mask = T(l, "mask"), factor = fmt(1 / (1 - num(L[l].config.rate)));
    add("Dropout", { l, e: largest(l) }, (e) => {
      if (!mask) return "In evaluation dropout lets every number pass.";
      const kept = mask.get(...e) ? `: kept, and multiplied by ${factor}` : "";
      return `${percent(share(mask, (v) => v === 0))} of this image's numbers were dropped; ` +
        `${isNow("y", e, l, T(l, "y").get(...e))}${kept}.`;
    });
  },
  Flatten(l, add) {
    const { shape, size } = T(l, "x");
    add("A map becomes a row", { l, e: largest(l) }, (e) => `${named("y", e, l)} is x${at(unflat(e[0], shape))}, ` +
      `unchanged: ${times(shape)} = ${count(size, "number")} in one row.`);
  },
  GlobalAveragePooling2D(l, add) {
    add("A map becomes a number", { l, e: largest(l) }, (e) =>
      `${isNow("y", e, l, T(l, "y").get(...e))}, the mean of ${count(spots(T(l, "x")), "number")}.`);
  },
  softmax(l, add) {
    const y = T(l, "y"), row = rowOf(y, [0]), top = row.indexOf(Math.max(...row));
    add("From numbers to probabilities", { l, v: weighty(l) ? "act" : "one", e: [top] }, (e) => {
      const right = D.label === undefined || D.label === e[0];
      const label = right ? "" : `; that of ${className(D.label)}, the label, is ${fmt(y.get(D.label))}`;
      return `Softmax: ${named("y", e, l)}, the probability of ${className(e[0])}, is ${fmt(y.get(...e))}${label}.`;
    });
  },
};

function lossStops(add) {
  add("How wrong?", { l: LOSS }, () => {
    const [own, all] = lossSteps(), how = summed() ? "sum" : "mean";
    const batch = all ? `; that of the batch, the ${how} over its images, is ${fmt(all.rec)}` : "";
    return `The loss of this image is ${fmt(own.rec)}${batch}.`;
  });
  if (T(LOSS - 1, "y").rank !== 1) return;
  add("The backward pass begins", { l: LOSS, d: "b", e: [D.label ?? 0] }, ([k]) => {
    const g = lossGradient(k), name = onLogits() ? `the logit of ${className(k)}` : `the output ${className(k)}`;
    const way = g.rec < 0 ? "Minus: a larger one makes the loss smaller."
      : g.rec > 0 ? "Plus: a larger one makes the loss larger." : "";
    return `${g.name}, the gradient with respect to ${name}, is ${g.text} = ${fmt(g.value ?? g.rec)}. ${way}`;
  });
}

const backwardStops = {
  fork(l, add) {
    const dy = T(l, "dy"), smallest = (index) => Math.min(...sentBack(l, index).map((t) => Math.abs(t.v)));
    add("Gradients meet", { l, d: "b", v: "meet", e: best(l, "dy", dy, null, smallest) }, (e) => {
      const parts = sentBack(l, e).map((t) => `${fmt(t.a)} from ${keyOf(t.l)}`).join(", ");
      return `${isNow("dy", e, l, dy.get(...e))}: ${parts}.`;
    });
  },
  merge(l, add) {
    const k = L[l].inputs.length - 1, what = `dx/${k}`, [to, other] = [k, 0].map((n) => keyOf(L[l].inputs[n]));
    const same = L[l].kind === "Add" ? `; ${other} receives the same` : "";
    add("Back to both branches", { l, d: "b", v: what, e: best(l, what, T(l, what), null) }, (e) =>
      `${isNow(`dx${k}`, e, l, T(l, what).get(...e))}: it goes to ${to}${same}.`);
  },
  dense(l, add) {
    if (L[l].inputs[0] === INPUT) return;
    const n = T(l, "p/w").shape[1], send = n === 1 ? "sends" : "send";
    add("Back to the layer before", { l, d: "b", v: "dx", e: best(l, "dx", T(l, "dx"), L[l].in) }, (e) =>
      `${isNow("dx", e, l, T(l, "dx").get(...e))}: the sum of what ${count(n, "output")} ${send} back.`);
  },
  GlobalAveragePooling2D(l, add) {
    add("Back through the mean", { l, d: "b", e: largest(l, "dx") }, (e) =>
      `${isNow("dx", e, l, T(l, "dx").get(...e))}: the same share for every pixel.`);
  },
  Dropout(l, add) {
    const mask = T(l, "mask"), factor = fmt(1 / (1 - num(L[l].config.rate)));
    if (!mask) return;
    const kept = `kept, so its gradient passes, multiplied by ${factor} as in the forward pass.`;
    add("Back through dropout", { l, d: "b", e: largest(l, "dx") }, (e) =>
      `${isNow("dx", e, l, T(l, "dx").get(...e))}: ${mask.get(...e) ? kept : "dropped, so nothing passes."}`);
  },
  pool(l, add) {
    const max = L[l].kind === "MaxPooling2D", won = (e) => poolBackward(l, e).terms.some((t) => t.b);
    const why = (e) => (!max ? "its share of the gradient of each window that it was in."
      : won(e) ? "this pixel won, so it receives the gradient of its window."
        : "this pixel won no window, so it receives nothing.");
    add(max ? "Back to the winner" : "Back in equal shares", { l, d: "b", e: largest(l, "dx") }, (e) =>
      `${isNow("dx", e, l, T(l, "dx").get(...e))}: ${why(e)}`);
  },
  activation(l, add) {
    const inside = weighty(l), out = inside ? "dz" : "dx", t = T(l, out), dy = T(l, "dy"), y = T(l, "y");
    if (!t || (weighty(l) && L[l].fused)) return;
    const off = (index) => isReLU(l) && !(y.get(...index) > 0); // a number that was switched off, with a large dy
    const score = isReLU(l) ? (index) => (off(index) ? Math.abs(dy.get(...index)) : -1) : undefined;
    const e = best(l, out, t, inside ? channelsHere(l) : null, score);
    add("Back through the activation", { l, d: "b", v: out, e }, (e) => {
      const result = `${out}${at(e)} is ${fmt(t.get(...e))}.`;
      return isNow("dy", e, l, dy.get(...e)) + (off(e) ? `, but the output is 0 there: nothing passes, and ${result}`
        : `; times the slope there, ${result}`);
    });
  },
  norm(l, add) {
    const three = L[l].of_batch, e = best(l, "dx", T(l, "dx"), null, (index) => telling(l, index));
    add("Back through batch normalisation", { l, d: "b", v: "dx", e }, (e) => {
      const f = bnBackward(l, e), head = isNow("dx", e, l, f.step.value);
      if (!three) return `${head}: mean and variance are constants here.`;
      return `${head}: ${fmt(f.direct)} directly, ${fmt(f.viaMean)} through the mean, ${fmt(f.viaVar)} through the ` +
        "variance.";
    });
    if (!three) return;
    add("Why there are three terms", { l, d: "b", v: "laws", e: best(l, "laws", T(l, "mean"), null) }, ([c]) => {
      const [one, two] = bnLaws(l, c);
      return `What moves or stretches a whole channel has no effect: in channel ${c} of ${keyOf(l)} Σ dx is ` +
        `${fmt(one.value)}, 0 but for rounding, and Σ dx·x̂ is ${fmt(two.value)}, 0 but for ε.`;
    });
  },
  back(l, add) {
    const e = best(l, "dx", T(l, "dx"), L[l].in), value = (e) => explain(l, "turned", e)[0].value;
    add("Back through the windows", { l, d: "b", v: "dx", e }, (e) => `${isNow("dx", e, l, T(l, "dx").get(...e))}: ` +
      `the sum of ${count(convDx(l, e).length, "contribution")}, one from each output pixel that saw it. Try the ` +
      "famous bug there.");
    add("The same with the kernel turned", { l, d: "b", v: "turned", e }, (e) => `${named("dx", e, l)} again, ` +
      `${fmt(value(e))}: this time as a convolution of dz with the kernel turned by 180°.`);
  },
};

// One weight, from its gradient through its step to the check of its gradient.
function storyStops(add) {
  const { layer: l, param, index: e } = WEIGHT, conv = L[l].kind === "Conv2D", c = learned(l).indexOf(param);
  const title = conv ? "A weight learns from every pixel" : "The gradient of a weight";
  add(title, { l, d: "b", v: "g:" + param, e }, (e) => {
    const steps = explain(l, "g:" + param, e), last = steps.at(-1), [own] = steps;
    const head = isNow("d" + param, e, l, last.value ?? last.rec), rows = T(l, "x").rank === 1 ? "sample" : "row";
    if (!conv) return `${head}: input times gradient, summed over ${count(own.terms.length, rows)}.`;
    const others = N > 1 ? `, the others of the ${count(N, "image")} the rest` : "";
    return `${head}. Image ${D.image} gives ${fmt(own.value ?? own.rec)} of it${others}.`;
  });
  add("The step", { l, d: "u", v: "step", e, c }, (e) => {
    const name = learned(l)[S.c ?? 0], get = (group) => fmt(T(l, `${group}/${name}`).get(...e));
    return `${D.optimizer.class_name} moves ${named(name, e, l)} from ${get("p")} to ${get("u")}; its gradient is ` +
      `${get("g")}.`;
  });
  add("Is it right?", { l, d: "u", v: "check", e }, () => {
    const list = D.check.filter((q) => q.layer === l), q = list[Math.min(S.k, list.length - 1)];
    return `Without a backward pass, the losses at w + h and w − h give ${fmt(bestRow(q).quotient64)} for ` +
      `${named("d" + q.param, q.index, l)}; the backward pass found ${fmt(num(q.recorded))}.`;
  });
}

