// A text that is being written: its ids, where the model stands, and where it stood a while ago.

import { bytesOf } from "./model.js";

const TRAIL_BYTES = 64 * 2 ** 20;
const TRAIL_LENGTH = 1000;

export class Branch {
  constructor(model, name) {
    this.model = model;
    this.name = name;
    this.ids = [];
    this.promptLength = 0;
    this.forkedAt = null;
    // Of what was read: { logits, state, filters, position }. Older ones are kept for rolling back.
    this.now = { logits: null, state: model.start(), filters: null, position: 0 };
    this.trail = [];
    this.trailBytes = 0;
  }

  get position() {
    return this.now.position;
  }

  async read(id) {
    const found = await this.model.step(id, this.now.state);
    this.trail.push(this.now);
    this.trailBytes += bytesOf(this.now.state);
    while (this.trailBytes > TRAIL_BYTES || this.trail.length > TRAIL_LENGTH) {
      this.trailBytes -= bytesOf(this.trail.shift().state);
    }
    this.ids.push(id);
    this.now = { ...found, position: this.position + 1 };
  }

  // A second text from here on. States are values: both go on from the same one.
  fork(name) {
    const other = new Branch(this.model, name);
    other.ids = [...this.ids];
    other.promptLength = this.promptLength;
    other.forkedAt = this.position;
    other.now = this.now;
    other.trail = [...this.trail];
    other.trailBytes = this.trailBytes;
    return other;
  }

  // The most tokens that can be taken back, without the prompt's.
  get canGoBack() {
    return Math.min(this.trail.length, Math.max(this.ids.length - this.promptLength, 0));
  }

  back(count) {
    for (let n = Math.min(count, this.canGoBack); n > 0; n--) {
      this.now = this.trail.pop();
      this.trailBytes -= bytesOf(this.now.state);
      this.ids.pop();
    }
    if (this.forkedAt > this.position) this.forkedAt = this.position;
  }
}

// The token with the highest logit, the first of equals.
function greedy(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

// A token by its probability at a temperature; 0 is greedy.
export function sample(logits, temperature) {
  if (temperature === 0) return greedy(logits);
  const highest = logits[greedy(logits)];
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - highest) / temperature));
  let left = Math.random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let id = 0; id < weights.length; id++) {
    left -= weights[id];
    if (left < 0) return id;
  }
  return greedy(logits);
}
