// Two questions to the model, answered in numbers: does it recall, and does it see the future?

import { logProbability } from "./branch.js";
import { drawLine } from "./pictures.js";

const byId = (name) => document.getElementById(name);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

// Read ids after a state: where the model stands then, and every logits on the way.
async function read(model, ids, from = { state: model.start(), logits: null }) {
  let now = from;
  const all = [];
  for (const id of ids) {
    now = await model.step(id, now.state);
    all.push(now.logits);
  }
  return { ...now, all };
}

// ln p of a text that follows, from a fork of the state.
async function score(model, ids, from) {
  let now = from;
  let sum = 0;
  for (const id of ids) {
    sum += logProbability(now.logits, id);
    now = await model.step(id, now.state);
  }
  return sum;
}

function parsePairs(text) {
  const pairs = text.split("\n").filter((line) => line.trim()).map((line) => {
    const place = line.indexOf(":");
    return place < 0 ? [line.trim(), ""] : [line.slice(0, place).trim(), line.slice(place + 1).trim()];
  });
  const bad = pairs.find(([key, value]) => !key || !value);
  if (bad) throw new Error(`The line “${bad.join("")}” is no pair: write key: value.`);
  if (pairs.length < 2) throw new Error("Give at least two pairs, so that there is something to confuse.");
  return pairs;
}

// For each value, its probability among the values after the pairs and the question, and after the question alone.
export async function recall(model, tokenizer, text, asked) {
  const pairs = parsePairs(text);
  const wanted = pairs.findLast(([key]) => key === asked.trim());
  if (!wanted) throw new Error(`“${asked}” is none of the keys: ask for one of them.`);
  const question = tokenizer.encode(`${wanted[0]}: `);
  const lines = pairs.map(([key, value]) => `${key}: ${value}\n`).join("");
  const after = await read(model, [tokenizer.end, ...tokenizer.encode(lines), ...question]);
  const alone = await read(model, [tokenizer.end, ...question]);
  const values = [...new Set(pairs.map(([, value]) => value))];
  const rows = [];
  for (const value of values) {
    // With the line's end, so that a value that begins another one is no easier.
    const ids = tokenizer.encode(`${value}\n`);
    rows.push({ value, after: await score(model, ids, after), alone: await score(model, ids, alone) });
  }
  for (const side of ["after", "alone"]) {
    const most = Math.max(...rows.map((row) => row[side]));
    const sum = rows.reduce((total, row) => total + Math.exp(row[side] - most), 0);
    for (const row of rows) row[`${side}Share`] = Math.exp(row[side] - most) / sum;
  }
  const best = rows.reduce((a, b) => (b.after > a.after ? b : a));
  return { wanted: wanted[1], rows, recalled: best.value === wanted[1], best: best.value };
}

// Largest difference between the logits of two texts at every token that both have.
export async function leak(model, tokenizer, first, second) {
  const a = [tokenizer.end, ...tokenizer.encode(first)];
  const b = [tokenizer.end, ...tokenizer.encode(second)];
  const length = Math.min(a.length, b.length);
  let change = 0;
  while (change < length && a[change] === b[change]) change += 1;
  if (change === length) throw new Error("Change a letter of the second text: one of them only ends earlier.");
  const left = await read(model, a.slice(0, length));
  const right = await read(model, b.slice(0, length));
  const differences = left.all.map((logits, n) => {
    return logits.reduce((most, logit, id) => Math.max(most, Math.abs(logit - right.all[n][id])), 0);
  });
  const moved = differences.findIndex((difference) => difference !== 0);
  return { differences, change, moved };
}

export function connectProbes(model, tokenizer, colours) {
  let shown = null;
  const drawLeak = () => {
    if (shown) drawLine(byId("leak-picture"), shown.differences, colours, { mark: shown.change });
  };
  connect("recall", async () => {
    const found = await recall(model, tokenizer, byId("pairs").value, byId("asked").value);
    byId("recall-result").replaceChildren(recallVerdict(found), recallTable(found));
    return found;
  });
  connect("leak", async () => {
    shown = await leak(model, tokenizer, byId("leak-a").value, byId("leak-b").value);
    byId("leak-figure").hidden = false;
    byId("leak-result").replaceChildren(leakVerdict(shown));
    drawLeak();
    return shown;
  });
  return drawLeak;
}

function connect(name, answer) {
  const button = byId(`${name}-run`);
  button.disabled = false;
  byId(name).addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    byId(`${name}-result`).textContent = "Reading.";
    try {
      await answer();
    } catch (error) {
      byId(`${name}-result`).textContent = error.message;
      byId(`${name}-figure`)?.setAttribute("hidden", "");
    }
    button.disabled = false;
  });
}

function element(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function recallVerdict({ wanted, recalled, best, rows }) {
  const { afterShare, aloneShare } = rows.find((row) => row.value === wanted);
  const sentence = recalled
    ? `Recalled: “${wanted}” is the likeliest of the values.`
    : `Not recalled: “${best}” is likelier than “${wanted}”.`;
  const moved = `Having read the pairs moved its share from ${percent(aloneShare)} to ${percent(afterShare)}.`;
  return element("p", `${sentence} ${moved}`, recalled ? "verdict good" : "verdict");
}

function recallTable({ wanted, rows }) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const title of ["Value", "Pairs read", "Question alone"]) {
    const cell = element("th", title);
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  for (const { value, afterShare, aloneShare } of rows) {
    const row = body.insertRow();
    if (value === wanted) row.className = "wanted";
    const name = element("th", value === wanted ? `${value} (asked for)` : value);
    name.scope = "row";
    row.append(name, shareCell(afterShare), shareCell(aloneShare));
  }
  return table;
}

function shareCell(share) {
  const cell = document.createElement("td");
  const bar = document.createElement("meter");
  bar.value = share;
  bar.setAttribute("aria-hidden", "true");
  cell.append(bar, element("span", percent(share)));
  return cell;
}

function leakVerdict({ differences, change, moved }) {
  const before = `${change} ${change === 1 ? "token" : "tokens"} before the change`;
  const clean = moved === -1 || moved >= change;
  const sentence = clean
    ? `Nothing before it moves: at the ${before} the logits are equal bit for bit; from there on they differ by up to ${Math.max(...differences).toPrecision(3)}.`
    : `It leaks: the logits at token ${moved} moved by ${differences[moved].toPrecision(3)}, before the change at ${change}.`;
  return element("p", sentence, clean ? "verdict good" : "verdict bad");
}
