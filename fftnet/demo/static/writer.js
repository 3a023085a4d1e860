// The writer: the texts (branches), their buttons, and the loop that writes.

import { bytesOf } from "./model.js";
import { Branch, sample } from "./branch.js";
import { Pace } from "./pace.js";

// Milliseconds of computing between two frames; with reduced motion there are two frames per second.
const SLICE = 44;
const REDUCED_SLICE = 500;
// Maximum number of characters shown, so that a long text costs the page no more than a short one.
const SHOWN = 20000;
// Number of tokens after which a text pauses.
const PASSAGE = 500;
// Distance to the end, in pixels, at which a reader who scrolls down follows the text again.
const NEAR_END = 60;
const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)");
const byId = (name) => document.getElementById(name);
const nextFrame = () => new Promise((resolve) => { requestAnimationFrame(resolve); });

export class Writer {
  constructor(model, tokenizer, view) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.view = view;
    this.branches = [];
    this.active = null;
    this.startBytes = bytesOf(model.start());
    this.running = false;
    this.busy = false;
    this.pace = new Pace();
    this.turns = 0;
    this.followText();
    byId("writer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.begin();
    });
    byId("pause").addEventListener("click", () => (this.running ? this.stop() : this.go()));
    byId("one").addEventListener("click", () => this.go(1));
    byId("fork").addEventListener("click", () => this.fork());
    for (const button of document.querySelectorAll(".back")) {
      button.addEventListener("click", () => this.back(Number(button.dataset.count)));
    }
    const slider = byId("temperature");
    slider.addEventListener("input", () => { byId("temperature-value").textContent = Number(slider.value).toFixed(1); });
  }

  get temperature() {
    return Number(byId("temperature").value);
  }

  // Read the prompt from an empty state and write.
  async begin(count = PASSAGE) {
    if (!(await this.stop())) return;
    this.branches = [new Branch(this.model, "A")];
    this.active = this.branches[0];
    this.pace = new Pace();
    this.view.clear();
    const ids = [this.tokenizer.end, ...this.tokenizer.encode(byId("prompt").value)];
    this.active.promptLength = ids.length;
    this.showText();
    await this.run("Reading the beginning.", count, ids);
  }

  async go(count = PASSAGE) {
    if (this.active && !this.busy) await this.run("Writing.", count);
  }

  // End the loop and wait for its last token; false if a newer call of stop replaces this one.
  async stop() {
    this.turns += 1;
    const turn = this.turns;
    this.running = false;
    while (this.busy) {
      await nextFrame();
      if (turn !== this.turns) return false;
      this.running = false;
    }
    return true;
  }

  async run(status, count, prompt = []) {
    this.running = true;
    this.busy = true;
    const branch = this.active;
    const waiting = [...prompt];
    let left = count;
    let ended = false;
    byId("status").textContent = status;
    this.pace.restart();
    this.update();
    try {
      while (this.running && !ended) {
        const until = performance.now() + (reducedMotion.matches ? REDUCED_SLICE : SLICE);
        do {
          if (waiting.length === 0 && left <= 0) ended = true;
          else if (waiting.length > 0) await this.read(branch, waiting.shift());
          else {
            if (prompt.length > 0) byId("status").textContent = "Writing.";
            const id = sample(branch.now.logits, this.temperature);
            left -= 1;
            await this.read(branch, id);
            this.append(id);
            ended = id === this.tokenizer.end || left <= 0;
          }
        } while (this.running && !ended && performance.now() < until);
        this.update();
        await nextFrame();
      }
      // If the prompt was interrupted, the text begins with the part that was read.
      branch.promptLength = Math.min(branch.promptLength, branch.ids.length);
      const atEnd = branch.ids.length > branch.promptLength && branch.ids.at(-1) === this.tokenizer.end;
      byId("status").textContent = atEnd
        ? `The model ended its text at position ${branch.position}.`
        : `Paused at position ${branch.position}. Continue writes ${PASSAGE} tokens more.`;
    } catch (error) {
      byId("status").textContent = `The model stopped: ${error.message}`;
      throw error;
    } finally {
      this.running = false;
      this.busy = false;
      this.update();
      this.view.settle(branch.now);
    }
  }

  async read(branch, id) {
    const before = performance.now();
    await branch.read(id);
    this.pace.add(before, performance.now());
    this.view.add(id, branch.position - 1, branch.now);
  }

  async fork() {
    if (!(await this.stop())) return;
    const other = this.active.fork(String.fromCharCode(65 + this.branches.length));
    this.branches.push(other);
    this.active = other;
    this.showText();
    this.update();
    byId("status").textContent =
      `Text ${other.name} goes on from the state at position ${other.position}; both keep theirs.`;
  }

  async choose(branch) {
    if (!(await this.stop())) return;
    this.active = branch;
    this.view.clear();
    this.showText();
    this.update();
    this.view.settle(branch.now);
  }

  async back(count) {
    if (!(await this.stop())) return;
    const before = this.active.position;
    this.active.back(count);
    this.view.dropFrom(this.active.position);
    this.showText();
    this.update();
    this.view.settle(this.active.now);
    byId("status").textContent =
      `Rolled back from position ${before} to ${this.active.position}, without reading anything again.`;
  }

  // Show the whole text again: the prompt, the part shared with the fork's origin, and the branch's own part.
  showText() {
    const { ids, promptLength, forkedAt } = this.active;
    const shared = Math.max(promptLength, forkedAt ?? promptLength);
    this.decoder = this.tokenizer.stream();
    const decode = (part) => part.map((id) => this.decoder.push(id)).join("");
    if (ids.length < promptLength) {
      byId("text-prompt").textContent = byId("prompt").value;
      byId("text-shared").textContent = byId("text-own").textContent = "";
      return;
    }
    byId("text-prompt").textContent = decode(ids.slice(0, promptLength));
    byId("text-shared").textContent = decode(ids.slice(promptLength, shared));
    byId("text-own").textContent = decode(ids.slice(shared));
    byId("text").classList.toggle("forked", forkedAt !== null);
    this.cut();
    this.following = true;
    this.follow();
  }

  append(id) {
    const own = byId("text-own");
    if (!own.lastChild) own.append(document.createTextNode(""));
    own.lastChild.appendData(this.decoder.push(id));
    this.cut();
  }

  // Drop the older half of a long text, but not while the reader looks at it.
  cut() {
    const parts = ["text-prompt", "text-shared", "text-own"].map((name) => byId(name).firstChild).filter(Boolean);
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    if (length <= 2 * SHOWN || !this.following) return;
    let over = length - SHOWN;
    for (const part of parts) {
      const gone = Math.min(over, part.length);
      part.deleteData(0, gone);
      over -= gone;
    }
  }

  // Follow the end of the text until the reader scrolls up. The distance to the end is no criterion: a few lines added
  // at once exceed any threshold.
  followText() {
    const box = byId("text");
    this.following = true;
    this.top = 0;
    box.addEventListener("scroll", () => {
      const below = box.scrollHeight - box.clientHeight - box.scrollTop;
      // Growing text never scrolls up. The reader does, or a box that became wider, which is at its end up to rounding.
      if (box.scrollTop < this.top) this.following = below < 2;
      else if (below < NEAR_END) this.following = true;
      this.top = box.scrollTop;
    });
    new ResizeObserver(() => this.follow()).observe(box);
  }

  // Scroll to the end, unless the reader has scrolled up.
  follow() {
    if (!this.following) return;
    const box = byId("text");
    box.scrollTop = box.scrollHeight;
    this.top = box.scrollTop;
  }

  update() {
    const branch = this.active;
    const written = branch && branch.position > 0;
    const number = (value) => value.toLocaleString("en");
    this.follow();
    byId("position").textContent = number(branch?.position ?? 0);
    if (this.pace.perSecond) byId("speed").textContent = number(Math.round(this.pace.perSecond));
    const size = bytesOf((branch?.now ?? { state: this.model.start() }).state);
    byId("bytes").textContent = number(size);
    byId("bytes-note").textContent = this.model.grows
      ? "grows: attention keeps every token"
      : size === this.startBytes ? "constant" : `began with ${number(this.startBytes)}`;
    byId("write").disabled = false;
    byId("pause").disabled = !written && !this.busy;
    byId("pause").textContent = this.running || !written ? "Pause" : "Continue";
    byId("one").disabled = !written || this.busy;
    byId("fork").disabled = !written;
    for (const button of document.querySelectorAll(".back")) {
      button.disabled = !branch || branch.canGoBack < Number(button.dataset.count);
    }
    this.listBranches();
    document.body.classList.toggle("running", this.running);
    this.view.draw(branch?.now, this.pace.medians);
  }

  listBranches() {
    const list = byId("branches");
    while (list.children.length > this.branches.length) list.lastChild.remove();
    this.branches.forEach((branch, n) => {
      if (!list.children[n]) {
        const button = document.createElement("button");
        button.type = "button";
        button.addEventListener("click", () => this.choose(this.branches[n]));
        list.append(button);
      }
      const button = list.children[n];
      const origin = branch.forkedAt === null ? "" : `, forked at ${branch.forkedAt}`;
      button.textContent = `${branch.name} · ${branch.position} tokens${origin}`;
      button.setAttribute("aria-pressed", String(branch === this.active));
    });
    list.hidden = this.branches.length < 2;
  }
}
