// Speed of writing: recent tokens per second, and the time per token by position.

// Milliseconds over which tokens per second are counted.
const WINDOW = 1500;
const MAX_POINTS = 400;
// Tokens per point of the chart.
const MEDIAN_OF = 16;

export class Pace {
  #ends = [];
  #waiting = [];
  #perPoint = MEDIAN_OF;
  // The first calls also initialize the runtime: they are not measured.
  #unmeasured = MEDIAN_OF;

  // Median milliseconds per token, each over the same number of tokens.
  medians = [];

  // Called after a pause, which does not count.
  restart() {
    this.#ends = [];
  }

  // Add a token that was computed between two times in milliseconds.
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
    if (this.medians.length < MAX_POINTS) return;
    // A long text gets coarser points, not more points.
    this.medians = this.medians.filter((_, n) => n % 2 === 0);
    this.#perPoint *= 2;
  }

  // Recent tokens per second, with drawing and waiting; 0 if there are too few.
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
