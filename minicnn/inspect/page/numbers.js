// The numbers: what the file holds, how an element is found, and how a number is written.

const D = JSON.parse(document.getElementById("data").textContent);
const L = D.layers, INPUT = -1, LOSS = L.length, N = D.batch;
const num = (v) => (v === null || v === undefined ? undefined : Number(v));
const range = (n) => [...Array(n).keys()];

const KINDS = { f4: Float32Array, f8: Float64Array, u1: Uint8Array, i4: Int32Array };
const buffers = new Map();
function decoded(number, kind) {
  const key = number + kind;
  if (!buffers.has(key)) {
    const text = atob(D.pool[number]), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    buffers.set(key, new KINDS[kind](bytes.buffer));
  }
  return buffers.get(key);
}

// An array of which some rows and columns are embedded, in one or more parts. get gives undefined for the others.
class Tensor {
  constructor(spec) {
    this.shape = spec.shape;
    this.rank = spec.shape.length;
    this.parts = spec.parts.map((part) => {
      const sizes = part.at.map((at, k) => (at ? at.length : this.shape[k]));
      const places = part.at.map((at, k) => {
        if (!at) return null;
        const place = new Int32Array(this.shape[k]).fill(-1);
        at.forEach((v, i) => { place[v] = i; });
        return place;
      });
      return { at: part.at, sizes, places, data: decoded(part.pool, part.kind) };
    });
    this.whole = this.parts[0].at.every((at) => !at);
  }
  get(...index) {
    next: for (const part of this.parts) {
      let offset = 0;
      for (let k = 0; k < index.length; k++) {
        const i = part.places[k] ? part.places[k][index[k]] : index[k];
        if (!(i >= 0)) continue next;
        offset = offset * part.sizes[k] + i;
      }
      return part.data[offset];
    }
    return undefined;
  }
  at(flat) { return this.get(...unflat(flat, this.shape)); }
  get size() { return this.shape.reduce((a, b) => a * b, 1); }
  largest() {
    if (this.peak === undefined) {
      this.peak = 0;
      for (const part of this.parts) {
        for (const v of part.data) if (Math.abs(v) > this.peak && Math.abs(v) < Infinity) this.peak = Math.abs(v);
      }
    }
    return this.peak;
  }
}
function unflat(flat, shape) {
  const index = new Array(shape.length);
  for (let k = shape.length - 1; k >= 0; k--) {
    index[k] = flat % shape[k];
    flat = Math.floor(flat / shape[k]);
  }
  return index;
}
const flatOf = (index, shape) => index.reduce((a, v, k) => a * shape[k] + v, 0);
const tensors = new Map();
function tensor(id) {
  if (id === undefined) return undefined;
  if (!tensors.has(id)) tensors.set(id, new Tensor(D.tensors[id]));
  return tensors.get(id);
}
const T = (l, name) => tensor(L[l].t[name]);
const picture = () => tensor(D.x); // this image, as the network reads it
const params = (l) => Object.keys(L[l].t).filter((k) => k.startsWith("p/")).map((k) => k.slice(2));
const learned = (l) => params(l).filter((name) => T(l, "g/" + name));

// The network: which layers a layer reads, and which ones read it.
const sources = (l) => (l === LOSS ? [LOSS - 1] : l === INPUT ? [] : L[l].inputs);
const readers = (l) => L.map((q, k) => k).filter((k) => L[k].inputs.includes(l));
// A layer in which branches meet has a list of inputs, x/0, x/1, …
const merges = (l) => l >= 0 && l < LOSS && L[l].t["x/0"] !== undefined;
const read = (l, k = 0) => T(l, merges(l) ? `x/${k}` : "x");
const uses = (l) => L[l].uses || [l]; // where its parameters are used
const hasBackward = L.length > 0 && L[LOSS - 1].t.dy !== undefined;
const weighty = (l) => l >= 0 && l < LOSS && L[l].weighted; // a sum of products with learned kernels
const activation = (l) => (l >= 0 && l < LOSS && L[l].act ? L[l].act.name : "linear");
const dzOf = (l) => T(l, "dz") || T(l, "dy");

// ---- how numbers and their names are written ----------------------------------------------------------------------

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
// In a small cell: two digits.
function tiny(v) {
  if (v === 0) return "0";
  if (Math.abs(v) < 100 && Math.abs(v) >= 0.001) return (v < 0 ? "−" : "") + Number(Math.abs(v).toPrecision(2));
  return fmt(v).replace("·10", "e").replace(/[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]/g, (c) => (c === "⁻" ? "−" : UP.indexOf(c)));
}
const bracket = (v) => (v < 0 ? `(${fmt(v)})` : fmt(v));
const signed = (v) => (v < 0 ? `− ${bracket(-v)}` : `+ ${bracket(v)}`);
const at = (index) => "[" + index.join(", ") + "]";
const whole = (n) => n.toLocaleString("en");
const count = (n, one, many) => `${whole(n)} ${n === 1 ? one : many || one + "s"}`;
const percent = (share) => `${(share * 100).toFixed(1)} %`;
const times = (shape) => shape.join("×");
const className = (k) => (D.classes && D.classes[k] !== undefined ? D.classes[k] : `class ${k}`);
const keyOf = (l) => (l === INPUT ? "input" : l === LOSS ? "loss" : L[l].key);
