// Charts of the model's filters, spectra and speed, in the colours of the page.

const MAX_COLUMNS = 256;
const CELL = 3;
const MAP_HEIGHT = 400;

// Resize a canvas to its size in CSS pixels at the resolution of the screen.
function fit(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

export class Colours {
  constructor() {
    this.refresh();
  }

  refresh() {
    const style = getComputedStyle(document.documentElement);
    const property = (name) => style.getPropertyValue(name).trim();
    this.text = property("--muted");
    this.line = property("--line");
    this.strong = property("--ink");
    this.accent = property("--accent");
    this.heads = [0, 1, 2, 3].map((n) => property(`--head-${n}`));
    const stops = [0, 1, 2, 3].map((n) => property(`--heat-${n}`).match(/\w\w/g).map((part) => parseInt(part, 16)));
    this.heat = new Uint32Array(256);
    for (let n = 0; n < 256; n++) {
      const place = (n / 255) * (stops.length - 1);
      const left = Math.min(Math.floor(place), stops.length - 2);
      const [red, green, blue] = stops[left].map((low, part) => {
        return Math.round(low + (stops[left + 1][part] - low) * (place - left));
      });
      this.heat[n] = (255 << 24) | (blue << 16) | (green << 8) | red;
    }
  }

  head(n) {
    return this.heads[n % this.heads.length];
  }
}

// Heat map of the filters over layers, heads and bins: one column per token, the newest at the right.
export class FilterMap {
  constructor(canvas, readout, filters, label) {
    this.canvas = canvas;
    this.readout = readout;
    this.filters = filters;
    this.label = label;
    this.columns = [];
    this.cursor = null;
    this.stride = Math.max(...filters.bins, 0);
    this.rows = [];
    filters.layers.forEach((layer, index) => {
      for (let head = 0; head < filters.heads; head++) {
        for (let bin = 0; bin < filters.bins[index]; bin++) this.rows.push({ layer, index, head, bin });
      }
    });
    this.rows.forEach((row, n) => { row.n = n; });
    this.layers = filters.layers.map((_, index) => this.rows.filter((row) => row.index === index));
    this.peak = new Float32Array(this.rows.length);
    canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    canvas.addEventListener("pointerdown", (event) => this.point(event.offsetX));
    canvas.addEventListener("pointerleave", () => this.move(null));
    canvas.addEventListener("blur", () => this.move(null));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  clear() {
    this.columns = [];
    this.cursor = null;
    this.peak.fill(0);
  }

  add(id, position, filters) {
    const values = Float32Array.from(this.rows, ({ index, head, bin }) => {
      return filters[(index * this.filters.heads + head) * this.stride + bin];
    });
    values.forEach((value, row) => { this.peak[row] = Math.max(this.peak[row], value); });
    this.columns.push({ id, position, values });
    if (this.columns.length > MAX_COLUMNS) this.columns.shift();
  }

  // Drop the columns from a position on, when a text is rolled back.
  dropFrom(position) {
    this.columns = this.columns.filter((column) => column.position < position);
    this.cursor = null;
  }

  get #layout() {
    const layers = this.filters.layers.length;
    const left = 54;
    const gap = 8;
    const rowHeight = Math.max(1, Math.min(6, Math.floor(MAP_HEIGHT / Math.max(this.rows.length, 1))));
    const available = Math.floor((this.canvas.clientWidth - left) / CELL);
    const shown = Math.max(1, Math.min(available, MAX_COLUMNS));
    const height = this.rows.length * rowHeight + gap * (layers - 1);
    // On a wide canvas, cells are wider.
    return { left, gap, rowHeight, height, shown, cell: (this.canvas.clientWidth - left) / shown };
  }

  draw(colours) {
    const { left, gap, rowHeight, height, shown, cell } = this.#layout;
    const { context, width } = fit(this.canvas, height);
    const columns = this.columns.slice(-shown);
    const first = shown - columns.length;
    let top = 0;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "top";
    this.filters.layers.forEach((layer, index) => {
      const rows = this.layers[index];
      const image = new ImageData(shown, rows.length);
      const pixels = new Uint32Array(image.data.buffer);
      pixels.fill(colours.heat[0]);
      // Bins differ in size: each is shown relative to its own peak.
      for (const [row, { n }] of rows.entries()) {
        const scale = this.peak[n] > 0 ? 255 / this.peak[n] : 0;
        const start = row * shown + first;
        for (let column = 0; column < columns.length; column++) {
          pixels[start + column] = colours.heat[Math.round(columns[column].values[n] * scale)];
        }
      }
      const small = new OffscreenCanvas(shown, rows.length);
      small.getContext("2d").putImageData(image, 0, 0);
      context.imageSmoothingEnabled = false;
      const band = rows.length * rowHeight;
      context.drawImage(small, left, top, width - left, band);
      context.fillStyle = colours.text;
      context.fillText(`layer ${layer + 1}`, 0, top);
      const part = band / this.filters.heads;
      for (let head = 0; head < this.filters.heads; head++) {
        context.fillStyle = colours.head(head);
        context.fillRect(left - 5, top + head * part + 1, 3, part - 2);
      }
      top += band + gap;
    });
    if (this.cursor !== null) {
      context.strokeStyle = colours.strong;
      const column = this.cursor - (this.columns.length - columns.length);
      context.lineWidth = 1.5;
      context.strokeRect(left + (first + column) * cell - 1, 1, cell + 2, height - 2);
    }
  }

  point(x) {
    const { left, shown, cell } = this.#layout;
    const index = Math.floor((x - left) / cell) + this.columns.length - shown;
    this.move(x >= left && index >= 0 && index < this.columns.length ? index : null);
  }

  key(event) {
    const last = this.columns.length - 1;
    const first = Math.max(0, this.columns.length - this.#layout.shown);
    const from = this.cursor ?? last + 1;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: first, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.move(Math.min(Math.max(to, first), last));
  }

  move(index) {
    this.cursor = index;
    const text = index === null ? this.hint : this.describe(this.columns[index]);
    this.readout.textContent = text;
    const last = Math.max(this.columns.length - 1, 0);
    this.canvas.setAttribute("aria-valuemax", String(last));
    this.canvas.setAttribute("aria-valuenow", String(index ?? last));
    this.canvas.setAttribute("aria-valuetext", text);
    this.onChange?.();
  }

  get hint() {
    return "Point at a column, or focus the picture and press the arrow keys, to read a token’s filters.";
  }

  describe({ id, position, values }) {
    let best = 0;
    const share = (n) => (this.peak[n] > 0 ? values[n] / this.peak[n] : 0);
    for (let n = 1; n < values.length; n++) if (share(n) > share(best)) best = n;
    const { layer, head, bin } = this.rows[best];
    const place = `layer ${layer + 1}, head ${head + 1}, bin ${bin + 1}`;
    return `Token ${position}, ${this.label(id)}: nearest to its own peak is ${place}, |filter| ${values[best].toFixed(2)}.`;
  }
}

// |Z| of the prefix: one panel per layer, one group of bars per bin, one colour per head.
export function drawSpectra(canvas, spectra, colours) {
  const narrow = canvas.clientWidth < 420;
  const perRow = narrow ? Math.min(2, spectra.length) : Math.min(4, spectra.length);
  const panelHeight = 128;
  const rowsOfPanels = Math.ceil(spectra.length / perRow);
  const { context, width } = fit(canvas, rowsOfPanels * panelHeight);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  const gap = 14;
  const panelWidth = (width - gap * (perRow - 1)) / perRow;
  spectra.forEach(({ layer, heads, bins, values }, n) => {
    const left = (n % perRow) * (panelWidth + gap);
    const top = Math.floor(n / perRow) * panelHeight;
    const base = top + panelHeight - 8;
    const peak = Math.max(...values, 1e-9);
    const slot = panelWidth / bins;
    const bar = (slot * 0.8) / heads;
    context.fillStyle = colours.text;
    context.fillText(`layer ${layer + 1}`, left, top);
    context.textAlign = "right";
    context.fillText(peak > 1e-8 ? `max ${peak.toPrecision(3)}` : "empty", left + panelWidth, top);
    context.textAlign = "left";
    for (let bin = 0; bin < bins; bin++) {
      for (let head = 0; head < heads; head++) {
        const size = (values[head * bins + bin] / peak) * (panelHeight - 30);
        context.fillStyle = colours.head(head);
        context.fillRect(left + bin * slot + slot * 0.1 + head * bar, base - size, Math.max(bar - 0.5, 0.6), size);
      }
    }
    context.fillStyle = colours.line;
    context.fillRect(left, base, panelWidth, 1);
  });
}

export function describeSpectra(spectra) {
  return spectra.map(({ layer, bins, values }) => {
    const best = values.indexOf(Math.max(...values));
    const place = `head ${Math.floor(best / bins) + 1}, bin ${(best % bins) + 1}`;
    return `Layer ${layer + 1}: strongest at ${place}, ${values[best].toPrecision(3)}.`;
  }).join(" ");
}

// Line chart from zero to `top`; larger values are cut off.
export function drawLine(canvas, values, colours, { unit, top }) {
  const height = 90;
  const { context, width } = fit(canvas, height);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  const ceiling = 18;
  const base = height - 4;
  const x = (n) => (values.length > 1 ? (n / (values.length - 1)) * (width - 2) + 1 : 1);
  context.fillStyle = colours.line;
  context.fillRect(0, base, width, 1);
  context.strokeStyle = colours.accent;
  context.lineWidth = 2;
  context.lineJoin = "round";
  context.beginPath();
  values.forEach((value, n) => {
    const y = base - Math.min(value / top, 1) * (base - ceiling);
    if (n === 0) context.moveTo(x(n), y);
    else context.lineTo(x(n), y);
  });
  context.stroke();
  context.fillStyle = colours.text;
  context.fillText(values.length ? `${top.toPrecision(3)}${unit}` : "", 0, 0);
}
