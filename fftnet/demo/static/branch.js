// A text that is being written: its ids, the current state, and earlier states for rolling back.

import { bytesOf } from "./model.js";

const HISTORY_BYTES = 64 * 2 ** 20;
const HISTORY_LENGTH = 1000;

export class Branch {
  constructor(model, name) {
    this.model = model;
    this.name = name;
    this.ids = [];
    this.promptLength = 0;
    this.forkedAt = null;
    // After the last token: { logits, state, filters, position }. The history has the same for earlier tokens.
    this.now = { logits: null, state: model.start(), filters: null, position: 0 };
    this.history = [];
    this.historyBytes = 0;
  }

  get position() {
    return this.now.position;
  }

  async read(id) {
    const result = await this.model.step(id, this.now.state);
    this.history.push(this.now);
    this.historyBytes += bytesOf(this.now.state);
    while (this.historyBytes > HISTORY_BYTES || this.history.length > HISTORY_LENGTH) {
      this.historyBytes -= bytesOf(this.history.shift().state);
    }
    this.ids.push(id);
    this.now = { ...result, position: this.position + 1 };
  }

  // A second text that continues from the same state.
  fork(name) {
    const other = new Branch(this.model, name);
    other.ids = [...this.ids];
    other.promptLength = this.promptLength;
    other.forkedAt = this.position;
    other.now = this.now;
    other.history = [...this.history];
    other.historyBytes = this.historyBytes;
    return other;
  }

  // Number of tokens that can be rolled back; the prompt stays.
  get canGoBack() {
    return Math.min(this.history.length, Math.max(this.ids.length - this.promptLength, 0));
  }

  back(count) {
    for (let n = Math.min(count, this.canGoBack); n > 0; n--) {
      this.now = this.history.pop();
      this.historyBytes -= bytesOf(this.now.state);
      this.ids.pop();
    }
    if (this.forkedAt > this.position) this.forkedAt = this.position;
  }
}

// The token with the highest logit; of equal ones, the first.
function greedy(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

// Sample a token at a temperature; 0 is greedy.
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
