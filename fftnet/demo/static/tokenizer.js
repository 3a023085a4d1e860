// Text to ids and back: byte-level BPE from tokenizer.json. Plain bytes are a BPE without merges.

import { get } from "./model.js";
import { toRegExp } from "./pattern.js";

const END_OF_TEXT = "<|endoftext|>";
const CANNOT = "This model's tokenizer can't be run in this page";

export class Tokenizer {
  #bytesOf = new Map();
  #idOf = new Map();
  #rank = new Map();
  #pieces = null;
  #characters;

  constructor(described) {
    const { model, pre_tokenizer: stage, normalizer, added_tokens: added } = described;
    const stages = stage?.type === "Sequence" ? stage.pretokenizers : [stage];
    const kinds = stages.map((one) => one?.type).join(" ");
    if (model?.type !== "BPE" || normalizer || !["ByteLevel", "Split ByteLevel"].includes(kinds)) {
      throw new Error(`${CANNOT}: it is not a byte-level BPE.`);
    }
    if (kinds.startsWith("Split")) {
      try {
        this.#pieces = toRegExp(stages[0].pattern.Regex);
      } catch (error) {
        throw new Error(`${CANNOT}: ${error.message}.`);
      }
    }
    const special = new Map(added.map(({ content, id }) => [content, id]));
    this.end = special.get(END_OF_TEXT);
    this.special = new Set(special.values());
    const byteOf = printableBytes();
    for (const [piece, id] of Object.entries(model.vocab)) {
      if (special.has(piece)) continue;
      this.#idOf.set(piece, id);
      this.#bytesOf.set(id, Uint8Array.from([...piece], (character) => byteOf.get(character)));
    }
    this.#characters = [...byteOf.keys()].sort((a, b) => byteOf.get(a) - byteOf.get(b));
    model.merges.forEach(([left, right], rank) => this.#rank.set(`${left} ${right}`, rank));
  }

  static async load() {
    return new Tokenizer(await (await get("model/tokenizer.json")).json());
  }

  // Names of special tokens are encoded as ordinary text, as in Tokenizer.encode in Python.
  encode(text) {
    const pieces = this.#pieces ? text.match(this.#pieces) ?? [] : [text];
    return pieces.flatMap((piece) => this.#encodePiece(piece));
  }

  // A decoder that keeps the bytes of an unfinished character until the next token.
  stream() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (id) => decoder.decode(this.#bytesOf.get(id) ?? new Uint8Array(), { stream: true }),
    };
  }

  // A single token, for labels.
  show(id) {
    if (this.special.has(id)) return "end of text";
    const text = new TextDecoder().decode(this.#bytesOf.get(id) ?? new Uint8Array());
    if (text.includes("\ufffd")) return `bytes ${[...this.#bytesOf.get(id)].join(" ")}`;
    return JSON.stringify(text);
  }

  #encodePiece(piece) {
    let parts = Array.from(new TextEncoder().encode(piece), (byte) => this.#characters[byte]);
    const whole = this.#idOf.get(parts.join(""));
    if (whole !== undefined) return [whole];
    if (this.#rank.size === 0) return parts.map((part) => this.#idOf.get(part));
    // Merge the pair with the lowest rank until no pair has one.
    for (;;) {
      let best = Infinity;
      let place = -1;
      for (let n = 0; n + 1 < parts.length; n++) {
        const rank = this.#rank.get(`${parts[n]} ${parts[n + 1]}`);
        if (rank < best) [best, place] = [rank, n];
      }
      if (place < 0) return parts.map((part) => this.#idOf.get(part));
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
  }
}

// Bytes by the printable character that GPT-2's vocabulary writes for them.
function printableBytes() {
  const printable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
  const byteOf = new Map();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    byteOf.set(String.fromCharCode(printable(byte) ? byte : next++), byte);
  }
  return byteOf;
}
