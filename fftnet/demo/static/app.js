// Start of the page: loads the model, and connects the writer to the charts.

import { Model, bytesOf } from "./model.js";
import { Tokenizer } from "./tokenizer.js";
import { Colours, FilterMap, describeSpectra, drawLine, drawSpectra } from "./pictures.js";
import { Writer } from "./writer.js";

// Tokens written after loading, so that the page shows at once what it does.
const AT_LOAD = 100;
const byId = (name) => document.getElementById(name);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

class View {
  constructor(model, tokenizer, colours) {
    this.model = model;
    this.colours = colours;
    this.now = null;
    this.medians = [];
    const { filters } = model.description;
    this.map = new FilterMap(byId("filters"), byId("filters-readout"), filters, (id) => tokenizer.show(id));
    this.map.onChange = () => this.map.draw(colours);
    this.map.move(null);
    byId("filters-figure").hidden = filters.layers.length === 0;
    byId("spectrum-figure").hidden = model.description.spectra.length === 0;
    for (let head = 0; head < filters.heads && head < 4; head++) {
      const mark = document.createElement("span");
      mark.className = `key head-${head}`;
      mark.textContent = `head ${head + 1}`;
      byId("legend").append(mark);
    }
  }

  clear() {
    this.map.clear();
  }

  add(id, position, { filters }) {
    if (filters) this.map.add(id, position, filters);
  }

  dropFrom(position) {
    this.map.dropFrom(position);
  }

  draw(now = this.now, medians = this.medians) {
    this.now = now;
    this.medians = medians;
    this.map.draw(this.colours);
    drawSpectra(byId("spectrum"), this.model.spectra(now?.state ?? this.model.start()), this.colours);
    // Scaled by the median: a single slow step would flatten the rest of the line.
    const sorted = [...medians].sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)] ?? 1;
    drawLine(byId("pace"), medians, this.colours, { unit: " ms", top: 2 * median });
  }

  // Describe the charts for screen readers, once the writer pauses.
  settle(now) {
    byId("spectrum").setAttribute("aria-label", `Spectrum of the prefix. ${describeSpectra(this.model.spectra(now.state))}`);
    const last = this.medians.at(-1);
    const text = last === undefined ? "not measured yet" : `${this.medians[0].toFixed(2)} ms at first, ${last.toFixed(2)} ms now`;
    byId("pace").setAttribute("aria-label", `Time per token by position: ${text}`);
  }
}

function describe(model) {
  const { num_parameters: parameters, model: sizes, files } = model.description;
  const size = bytesOf(model.start()).toLocaleString("en");
  if (!model.grows) {
    byId("headline").textContent = `${size} bytes`;
    byId("fork-note").textContent = `a state is ${size} bytes, however long the text`;
  } else {
    byId("headline").textContent = "a state that grows with the text";
    byId("kind").textContent = "A language model with attention among its layers.";
    byId("pace-note").textContent = "This model has attention, whose cost grows with the text.";
  }
  const weights = files.step.includes("int8") ? "8-bit weights" : "float32";
  byId("about").textContent =
    `${parameters.toLocaleString("en")} parameters, ${sizes.num_layers} layers of width ${sizes.d_model} with ${sizes.num_heads} heads, ${weights}.`;
}

async function main() {
  const progress = byId("progress");
  const label = byId("progress-label");
  const tokenizer = await Tokenizer.load();
  const model = await Model.load((loaded, total) => {
    label.textContent = total ? `Loading ${megabytes(loaded)} of ${megabytes(total)}` : `Loading ${megabytes(loaded)}`;
    if (total) [progress.max, progress.value] = [total, loaded];
    if (loaded === total) {
      progress.removeAttribute("value");
      label.textContent = "Starting the runtime";
    }
  });
  describe(model);
  const colours = new Colours();
  const view = new View(model, tokenizer, colours);
  const writer = new Writer(model, tokenizer, view);
  const redraw = () => {
    colours.refresh();
    view.draw();
  };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("resize", redraw);
  byId("loading").hidden = true;
  // For the console and for tests.
  globalThis.demo = { model, writer };
  await writer.begin(AT_LOAD);
}

main().catch((error) => {
  byId("loading").hidden = true;
  byId("status").textContent = "";
  byId("failure").hidden = false;
  byId("failure").textContent = error.message;
});
