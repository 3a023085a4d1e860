// How fast a text is written: tokens a second of late, and the time a token over the position.

const WINDOW = 1500;
const MOST_POINTS = 400;
const MEDIAN_OF = 16;

export class Pace {
  #ends = [];
  #waiting = [];
  #perPoint = MEDIAN_OF;
  // The first calls also set the runtime up.
  #unmeasured = MEDIAN_OF;

  // Medians of milliseconds a token, each of the same number of tokens.
  medians = [];

  // After a pause, which is no part of the speed.
  restart() {
    this.#ends = [];
  }

  // A token, between two times in milliseconds.
  add(start, end) {
    this.#ends.push(end);
    while (this.#ends[0] < end - WINDOW) this.#ends.shift();
    if (this.#unmeasured > 0) {
      this.#unmeasured -= 1;
      return;
    }
    this.#waiting.push(end - start);
    if (this.#waiting.length < this.#perPoint) return;
    this.medians.push(median(this.#waiting));
    this.#waiting = [];
    if (this.medians.length < MOST_POINTS) return;
    // A long text has coarser points, not more of them.
    this.medians = this.medians.filter((_, n) => n % 2 === 0);
    this.#perPoint *= 2;
  }

  // Tokens a second of the last ones, pictures and waiting included; 0 if there are too few.
  get perSecond() {
    if (this.#ends.length < 5) return 0;
    return ((this.#ends.length - 1) * 1000) / (this.#ends.at(-1) - this.#ends[0]);
  }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2;
}
