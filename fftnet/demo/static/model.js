// The exported decode step in ONNX Runtime. States are values: no function changes a state that it is given.

import * as ort from "./runtime/ort.js";

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

export class Model {
  #session;
  #last = Promise.resolve();

  constructor(session, description) {
    this.#session = session;
    this.description = description;
    this.grows = description.state.some((entry) => entry.grows !== null);
  }

  // onProgress gets the number of bytes loaded and their total (0: unknown).
  static async load(onProgress) {
    const description = await (await get("model/state.json")).json();
    const weights = await download(`model/${description.files.step}`, onProgress);
    const here = (name) => new URL(`runtime/${name}`, document.baseURI).href;
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = { mjs: here("ort-wasm.js"), wasm: here("ort-wasm.wasm") };
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(weights, { executionProviders: ["wasm"] });
    return new Model(session, description);
  }

  // The state before the first token.
  start() {
    return this.description.state.map(({ dtype, shape, initial }) => {
      const size = shape.reduce((product, length) => product * length, 1);
      const data = new ARRAYS[dtype](size);
      const convert = dtype === "int64" ? BigInt : Number;
      if (Array.isArray(initial)) data.set(initial.flat(Infinity).map(convert));
      else data.fill(convert(initial));
      return new ort.Tensor(dtype, data, [1, ...shape]);
    });
  }

  // Read one token: { logits (V), state, filters (layers x heads x bins) or null }.
  step(id, state) {
    // The runtime can compute only one call at a time.
    const result = this.#last.then(() => this.#step(id, state));
    this.#last = result.catch(() => undefined);
    return result;
  }

  async #step(id, state) {
    const feeds = { token: new ort.Tensor("int64", BigInt64Array.of(BigInt(id)), [1]) };
    this.description.state.forEach((entry, n) => { feeds[entry.input] = state[n]; });
    const found = await this.#session.run(feeds);
    return {
      logits: found.logits.data,
      state: this.description.state.map((entry) => found[entry.output]),
      filters: found.filters?.data ?? null,
    };
  }

  // Magnitude |Z| over the channels of each head: { layer, heads, bins, values (heads x bins) } for each spectrum.
  spectra(state) {
    const { heads } = this.description.filters;
    return this.description.spectra.map(({ input, part, parts, layer }) => {
      const tensor = state[this.description.state.findIndex((entry) => entry.input === input)];
      const { dims } = tensor;
      const size = tensor.data.length / parts;
      const data = tensor.data.subarray(part * size, (part + 1) * size);
      const [bins, width] = dims.slice(3);
      const values = new Float32Array(heads * bins);
      for (let head = 0; head < heads; head++) {
        for (let bin = 0; bin < bins; bin++) {
          let sum = 0;
          for (let plane = 0; plane < 2; plane++) {
            const row = (head * 2 + plane) * bins + bin;
            for (let n = row * width; n < (row + 1) * width; n++) sum += data[n] * data[n];
          }
          values[head * bins + bin] = Math.sqrt(sum);
        }
      }
      return { layer, heads, bins, values };
    });
  }
}

export function bytesOf(state) {
  return state.reduce((sum, tensor) => sum + tensor.data.byteLength, 0);
}

export async function get(path) {
  let answer;
  try {
    answer = await fetch(path);
  } catch {
    throw new Error(`${path} could not be loaded: serve this folder over HTTP, for example with fftnet demo`);
  }
  if (!answer.ok) throw new Error(`${path} is missing here (${answer.status}): copy the whole folder of the page`);
  return answer;
}

async function download(path, onProgress) {
  const answer = await get(path);
  const total = Number(answer.headers.get("Content-Length") ?? 0);
  const pieces = [];
  let size = 0;
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    size += value.length;
    onProgress(size, total);
  }
  const whole = new Uint8Array(size);
  let offset = 0;
  for (const piece of pieces) {
    whole.set(piece, offset);
    offset += piece.length;
  }
  return whole;
}
