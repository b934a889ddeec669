const D = JSON.parse(document.getElementById("data").textContent);
const L = D.layers, LOSS = L.length, N = D.batch;
const num = (v) => (v === null || v === undefined ? undefined : Number(v));

// ---- the numbers --------------------------------------------------------------------------------------------------

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

class Tensor {
  // An array of which some rows and columns are embedded, in one or more parts. get gives undefined for the others.
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
      for (const part of this.parts) for (const v of part.data) { const a = Math.abs(v); if (a > this.peak && a < Infinity) this.peak = a; }
    }
    return this.peak;
  }
}
function unflat(flat, shape) {
  const index = new Array(shape.length);
  for (let k = shape.length - 1; k >= 0; k--) { index[k] = flat % shape[k]; flat = Math.floor(flat / shape[k]); }
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
const backwardThere = L.length > 0 && L[L.length - 1].t.dy !== undefined;
const params = (l) => Object.keys(L[l].t).filter((k) => k.startsWith("p/")).map((k) => k.slice(2));

