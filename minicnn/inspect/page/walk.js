// The walk: stops in the order in which a step computes, each a state of the page and a sentence about it. A sentence
// is made when it is shown, from the state that the panel shows: so it stays true when another number is chosen there.

let STOPS = [];
const WEIGHT = D.story ? D.check[0] : null; // the weight that is followed: {layer, param, index, …}
const named = (what, index, l) => `${what}${at(index)} of ${keyOf(l)}`;

function walkStops() {
  const stops = [];
  const add = (title, state, say) => stops.push({ title, state: { ...NOWHERE, ...state }, say });
  const x = picture();
  add("The picture is numbers", { l: INPUT, e: brightest(x) }, (e) =>
    `${named("x", e, INPUT)} is ${fmt(x.get(...e))}, one of ${times(x.shape)} = ${count(x.size, "number")}. All that ` +
      `follows is arithmetic ` +
    `with these, in one step of this run.`);
  const seen = visited();
  for (let l = 0; l < LOSS; l++) if (seen.has(l)) forwardStops(l, add, seen);
  if (D.losses === undefined) return stops;
  add("How wrong?", { l: LOSS }, () => {
    const [own, all] = lossSteps();
    return `The loss of this image is ${fmt(own.rec)}`
      + (all ? `; that of the batch, the ${summed() ? "sum" : "mean"} over its images, is ${fmt(all.rec)}.` : ".");
  });
  if (T(LOSS - 1, "y").rank === 1) {
    add("The backward pass begins", { l: LOSS, d: "b", e: [D.label ?? 0] }, ([k]) => {
      const g = lossGradient(k), name = onLogits() ? `the logit of ${className(k)}` : `the output ${className(k)}`;
      const way = g.rec < 0 ? "Minus: a larger one makes the loss smaller." : g.rec > 0
        ? "Plus: a larger one makes the loss larger." : "";
      return `${g.name}, the gradient with respect to ${name}, is ${g.text} = ${fmt(g.value ?? g.rec)}. ${way}`;
    });
  }
  for (let l = LOSS - 1; l >= 0; l--) if (seen.has(l)) backwardStops(l, add, seen);
  if (WEIGHT) storyStops(add);
  add("And again", { l: LOSS, d: "u" }, () => {
    const before = num(D.loss), after = num(D.loss_after);
    return `After this step the loss of the same batch is ${fmt(after)}; it was ${fmt(before)}. ` +
      (after < before ? "Training is this, many times, with one batch after another."
        : "It did not fall: this batch is one of many, and the optimizer remembers the others.");
  });
  return stops;
}
// The layers at which the walk stops: one of each kind, and those that the story needs.
function visited() {
  const first = (test) => L.findIndex(test), all = (test) => L.map((q, l) => l).filter((l) => test(L[l], l));
  const convs = all((q) => q.kind === "Conv2D"), denses = all((q) => q.kind === "Dense"),
    own = WEIGHT ? WEIGHT.layer : -1;
  const roles = new Map(), take = (l, role) => l >= 0 && roles.set(l, [...(roles.get(l) || []), role]);
  take(convs.includes(own) ? own : convs[0] ?? -1, "conv");
  take(denses.at(-1) ?? -1, "dense");
  if (denses.includes(own) && own !== denses.at(-1)) take(own, "dense");
  if (hasBackward) take(convs.find((l) => l > 0) ?? convs[0] ?? -1, "back");
  take(first((q, l) => q.act && !weighty(l) && !["linear", "softmax"].includes(q.act.name)), "activation");
  take(first((q, l) => q.act && q.act.name === "softmax" && T(l, "y").rank === 1), "softmax");
  take(first((q) => q.kind === "BatchNormalization"), "norm");
  take(first((q) => q.geo && q.kind !== "Conv2D"), "pool");
  for (const kind of ["Dropout", "Flatten", "GlobalAveragePooling2D"]) take(first((q) => q.kind === kind), kind);
  take(all((q, l) => q.geo && fieldSize(l)).at(-1) ?? -1, "field");
  return roles;
}
function brightest(t) {
  const list = sample(t, 400), size = (index) => Math.abs(t.get(...index) ?? 0);
  return list.reduce((a, index) => (size(index) > size(a) ? index : a), list[0]);
}
// Channels among which a number of the output is chosen: that of the followed weight, where it has one here.
const channelsHere = (l) => (WEIGHT && WEIGHT.layer === l ? [WEIGHT.index.at(-1)] : L[l].out);
const readsLater = (l) => L.some((q, k) => k > l && q.kind === "Dense"); // whether another dense layer follows
const dimming = (l) => activation(l) === "relu" && !num(L[l].act.slope);

function forwardStops(l, add, seen) {
  const roles = seen.get(l), { kind } = L[l], y = T(l, "y"), is = (role) => roles.includes(role);
  const before = activation(l) === "linear" ? "y" : "z";
  if (is("conv")) {
    const e = best(l, "y", y, channelsHere(l)), K = T(l, "p/w").size / T(l, "p/w").shape[3], taps = times(L[l].geo.k);
    const sum = (e) => linear(l, e).value ?? T(l, "z").get(...e);
    add("One number of a convolution", { l, v: "one", e },
      (e) => `${named(before, e, l)} is ${fmt(sum(e))}: a window of ${taps} pixels ` +
      `times a kernel, ${count(K, "product")}${T(l, "p/b") ? `, plus the bias ${fmt(linear(l, e).bias)}` : ""}.`);
    add("All windows as one matrix", { l, v: "im2col", e }, (e) => {
      const n = copies(l);
      return `im2col writes the window of output pixel (${e[0]}, ${e[1]}) as row ${e[0] * y.shape[1] + e[1]} of a ` +
        `matrix, which holds ` +
        `${fmt(n.copies / n.pixels)} copies of each number on average.`;
    });
    add("A convolution is a matrix product", { l, v: "gemm", e },
      (e) => `Row ${e[0] * y.shape[1] + e[1]} times column ${e[2]}: ` +
      `${count(K, "product")}, added one by one, ${T(l, "p/b") ? "and the bias " : ""}give ${named(before, e, l)}, ` +
        `${fmt(sum(e))}.`);
    if (isWinograd(l)) winogradStops(l, add);
  }
  if (is("dense")) {
    const label = l >= LOSS - 2 && y.rank === 1 && D.label !== undefined ? D.label : null, K = T(l, "p/w").shape[0];
    const wanted = label === null || T(l, "z").get(label) === undefined
      || explain(l, "y", [label]).some((s) => judge(s) === "none") ? null : [label];
    add(readsLater(l) ? "A weighted sum of everything" : "Everything comes together",
      { l, v: "one", e: wanted || best(l, "y", y, channelsHere(l)) }, (e) =>
      `${named(before, e, l)} is ${fmt(T(l, "z").get(...e))}: a weighted sum of ` +
        `${K === 1 ? "its one input" : `all ${whole(K)} inputs`}${T(l, "p/b") ? ", plus a bias" : ""}.`);
  }
  if (is("norm")) normStops(l, add);
  if (is("activation") || (weighty(l) && (is("conv") || is("dense"))
    && !["linear", "softmax"].includes(activation(l)))) {
    const inside = weighty(l), from = T(l, "z"), what = inside ? "act" : "y", name = inside ? "z" : "x";
    const low = ["relu", "elu", "gelu"].includes(activation(l)); // what is below 0 is where something happens
    const e = best(l, what, y, inside ? channelsHere(l) : null, low ? (index) => -from.get(...index) : undefined);
    add(dimming(l) ? "Switch off what is negative" : "The activation", { l, v: inside ? "act" : "one", e }, (e) => {
      const v = from.get(...e), out = `${named(name, e, l)} is ${fmt(v)}`,
        off = dimming(l) ? ` Here ${percent(share(y, (u) => u === 0))} of the outputs are 0.` : "";
      if (!dimming(l)) return `${out}; ${activation(l)} makes it y${at(e)} = ${fmt(y.get(...e))}.`;
      return v > 0 ? `${out}, above 0: ReLU keeps it.${off}`
        : `${out}, not above 0: ReLU switches it off, and y${at(e)} is 0.${off}`;
    });
  }
  if (is("pool")) {
    const max = kind === "MaxPooling2D", [H, W] = T(l, "x").shape;
    add("Fewer pixels", { l, v: "one", e: best(l, "y", y, null) },
      (e) => `${named("y", e, l)} is ${fmt(y.get(...e))}, ` +
      `${max ? "the largest number" : "the mean"} of its window of ${times(L[l].geo.k)}: ${H} × ${W} pixels become ` +
        `${y.shape[0]} × ${y.shape[1]}.`);
  }
  if (is("field")) {
    add("What a number can see", { l, v: "field", e: best(l, "y", y, null) },
      ([i, j]) => `Output pixel (${i}, ${j}) of ${keyOf(l)} depends on ` +
      `${times(fieldSize(l))} pixels of the picture, framed below: its receptive field. Deeper layers see more.`);
  }
  if (is("Dropout")) {
    const mask = T(l, "mask"), factor = fmt(1 / (1 - num(L[l].config.rate)));
    add("Dropout", { l, e: best(l, "y", y, null) }, (e) => {
      if (!mask) return "In evaluation dropout lets every number pass.";
      const kept = mask.get(...e) ? `: kept, and multiplied by ${factor}` : "";
      return `${percent(share(mask, (v) => v === 0))} of this image's numbers were dropped; ` +
        `${named("y", e, l)} is ${fmt(y.get(...e))}${kept}.`;
    });
  }
  if (is("Flatten")) {
    const from = T(l, "x");
    add("A map becomes a row", { l, e: best(l, "y", y, null) },
      (e) => `${named("y", e, l)} is x${at(unflat(e[0], from.shape))}, unchanged: ` +
      `${times(from.shape)} = ${count(from.size, "number")} in one row.`);
  }
  if (is("GlobalAveragePooling2D")) {
    add("A map becomes a number", { l, e: best(l, "y", y, null) },
      (e) => `${named("y", e, l)} is ${fmt(y.get(...e))}, the mean of ` +
      `${count(spots(T(l, "x")), "number")}.`);
  }
  if (is("softmax")) {
    const inside = weighty(l), row = rowOf(y, [0]), top = row.indexOf(Math.max(...row));
    add("From numbers to probabilities", { l, v: inside ? "act" : "one", e: [top] }, (e) => {
      const label = D.label === undefined || D.label === e[0] ? ""
        : `; that of ${className(D.label)}, the label, is ${fmt(y.get(D.label))}`;
      return `Softmax: ${named("y", e, l)}, the probability of ${className(e[0])}, is ${fmt(y.get(...e))}${label}.`;
    });
  }
}
function winogradStops(l, add) {
  const y = T(l, "y"), e = best(l, "winograd", y, channelsHere(l)), before = activation(l) === "linear" ? "y" : "z";
  if (judge(winogradStep(l, e)) !== "ok") return;
  add("Six products, or four", { l, v: "line", e }, () =>
    "Two neighbouring outputs of a row of weights cost 6 products. " +
    "Winograd's F(2, 3) makes them from 4, and sums that are cheap.");
  add("Sixteen products in place of 36", { l, v: "tile", e },
    (e) => `The same in two directions: a tile of 4×4 pixels gives 2×2 outputs. ` +
    `One of them is ${named(before, e, l)}, ${fmt(winogradStep(l, e).value)}.`);
}
function normStops(l, add) {
  const t = T(l, "mean"), y = T(l, "y"), ours = WEIGHT && L[l].inputs.includes(WEIGHT.layer) ? [WEIGHT.index.at(-1)]
    : null;
  const c = ours || best(l, "stats", t, null);
  add("Batch normalisation: the statistics", { l, v: "stats", e: c },
    (e) => `${named("mean", e, l)} is ${fmt(t.get(...e))}, ` +
    `${named("variance", e, l)} is ${fmt(T(l, "var").get(...e))}`
      + (L[l].of_batch ? `: over ${count(N * spots(T(l, "x")), "number")} of ${count(N, "image")}.`
      : ": the moving statistics."));
  add("Batch normalisation: one number", { l, v: "one", e: best(l, "y", y, ours) }, (e) => {
    const f = bnForward(l, e);
    return `${named("y", e, l)} is ${fmt(f.step.value)}; in evaluation, with the moving statistics, it would be ` +
      `${fmt(f.evaluation)}.`;
  });
}

function backwardStops(l, add, seen) {
  const roles = seen.get(l), { kind } = L[l], dx = T(l, "dx"), is = (role) => roles.includes(role);
  const at0 = (index) => fmt(dx.get(...index));
  if (is("dense") && L[l].inputs[0] !== INPUT) {
    add("Back to the layer before", { l, d: "b", v: "dx", e: best(l, "dx", dx, L[l].in) },
      (e) => `${named("dx", e, l)} is ${at0(e)}: the sum of what ` +
      `${count(T(l, "p/w").shape[1], "output")} send${T(l, "p/w").shape[1] === 1 ? "s" : ""} back.`);
  }
  if (is("GlobalAveragePooling2D")) {
    add("Back through the mean", { l, d: "b", e: best(l, "dx", dx, null) },
      (e) => `${named("dx", e, l)} is ${at0(e)}: the same share for every pixel.`);
  }
  if (is("Dropout") && T(l, "mask")) {
    add("Back through dropout", { l, d: "b", e: best(l, "dx", dx, null) },
      (e) => `${named("dx", e, l)} is ${at0(e)}: ` +
      (T(l, "mask").get(...e) ? `kept, so its gradient passes, multiplied by ${fmt(1 / (1 - num(L[l].config.rate)))} ` +
        `as in the forward pass.` : "dropped, so nothing passes."));
  }
  if (is("pool")) {
    const max = kind === "MaxPooling2D";
    add(max ? "Back to the winner" : "Back in equal shares", { l, d: "b", e: best(l, "dx", dx, null) },
      (e) => `${named("dx", e, l)} is ${at0(e)}: ` +
      (!max ? "its share of the gradient of each window that it was in." : poolBackward(l, e).terms.some((t) => t.b)
        ? "this pixel won, so it receives the gradient of its window."
        : "this pixel won no window, so it receives nothing."));
  }
  if (is("activation") || (weighty(l) && is("conv") && !["linear", "softmax"].includes(activation(l)) && T(l, "dz"))) {
    const inside = weighty(l), out = inside ? "dz" : "dx", t = T(l, out), dy = T(l, "dy"), y = T(l, "y");
    const score = (index) => (y.get(...index) === 0 ? Math.abs(dy.get(...index)) : -1);
    const e = best(l, inside ? "dz" : "dx", t, inside ? channelsHere(l) : null, dimming(l) ? score : undefined);
    add("Back through the activation", { l, d: "b", v: inside ? "dz" : "dx", e },
      (e) => `${named("dy", e, l)} is ${fmt(dy.get(...e))}` +
      (dimming(l) && !(y.get(...e) > 0) ? `, but the output is 0 there: nothing passes, and ${out}${at(e)} is ` +
        `${fmt(t.get(...e))}.` : `; times the slope there, ${out}${at(e)} is ${fmt(t.get(...e))}.`));
  }
  if (is("norm")) {
    const three = L[l].of_batch, score = (index) => {
      const f = bnBackward(l, index);
      return three ? Math.min(...[f.direct, f.viaMean, f.viaVar].map(Math.abs)) : Math.abs(f.direct);
    };
    add("Back through batch normalisation", { l, d: "b", v: "dx", e: best(l, "dx", dx, null, score) }, (e) => {
      const f = bnBackward(l, e), head = `${named("dx", e, l)} is ${fmt(f.step.value)}`;
      return three ? `${head}: ${fmt(f.direct)} directly, ${fmt(f.viaMean)} through the mean, ${fmt(f.viaVar)} ` +
        `through the variance.` : `${head}: mean and variance are constants here.`;
    });
    if (three) {
      add("Why there are three terms", { l, d: "b", v: "laws", e: best(l, "laws", T(l, "mean"), null) }, ([c]) => {
        const [one, two] = bnLaws(l, c);
        return `In channel ${c} of ${keyOf(l)} Σ dx is ${fmt(one.value)} and Σ dx·x̂ is ${fmt(two.value)}: what ` +
          `moves or stretches a whole channel has no effect.`;
      });
    }
  }
  if (is("back")) {
    const e = best(l, "dx", dx, L[l].in);
    add("Back through the windows", { l, d: "b", v: "dx", e }, (e) => `${named("dx", e, l)} is ${at0(e)}: the sum of ` +
      `${count(convDx(l, e).length, "contribution")}, one from each output pixel that saw it. Try the famous bug ` +
        `there.`);
    add("The same with the kernel turned", { l, d: "b", v: "turned", e },
      (e) => `${named("dx", e, l)} again, ${fmt(explain(l, "turned", e)[0].value)}: this time as a ` +
      `convolution of dz with the kernel turned by 180°.`);
  }
}
// One weight, from its gradient through its step to the check of its gradient.
function storyStops(add) {
  const { layer: l, param, index } = WEIGHT, conv = L[l].kind === "Conv2D", c = learned(l).indexOf(param);
  add(conv ? "A weight learns from every pixel" : "The gradient of a weight",
    { l, d: "b", v: "g:" + param, e: index }, (e) => {
    const steps = explain(l, "g:" + param, e), last = steps.at(-1),
      head = `${named("d" + param, e, l)} is ${fmt(last.value ?? last.rec)}`;
    return conv ? `${head}. Image ${D.image} gives ${fmt(steps[0].value ?? steps[0].rec)} of ` +
      `it${N > 1 ? `, the others of the ${count(N, "image")} the rest` : ""}.`
      : `${head}: input times gradient, summed over ` +
        `${count(steps[0].terms.length, T(l, "x").rank === 1 ? "sample" : "row")}.`;
  });
  add("The step", { l, d: "u", v: "step", e: index, c }, (e) => {
    const name = learned(l)[S.c ?? 0], get = (group) => fmt(T(l, `${group}/${name}`).get(...e));
    return `${D.optimizer.class_name} moves ${named(name, e, l)} from ${get("p")} to ${get("u")}; its gradient is ` +
      `${get("g")}.`;
  });
  add("Is it right?", { l, d: "u", v: "check", e: index }, () => {
    const list = D.check.filter((q) => q.layer === l), q = list[Math.min(S.k, list.length - 1)];
    return `Without a backward pass, the losses at w + h and w − h give ${fmt(bestRow(q).quotient64)} for ` +
      `${named("d" + q.param, q.index, l)}; the backward pass found ${fmt(num(q.recorded))}.`;
  });
}

