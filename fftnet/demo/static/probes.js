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

// Share of each value among all of them, asked for a key behind what was read.
async function shares(model, tokenizer, key, values, from) {
  const asked = await read(model, tokenizer.encode(`${key}: `), from);
  const scores = [];
  for (const value of values) {
    // With the line's end, so that a value that begins another one is no easier.
    scores.push(await score(model, tokenizer.encode(`${value}\n`), asked));
  }
  const most = Math.max(...scores);
  const weights = scores.map((one) => Math.exp(one - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

// The pairs are read once. Every key is asked for from a fork of that state; one of them, without the pairs, too.
export async function recall(model, tokenizer, text, asked) {
  const pairs = parsePairs(text);
  // Of a key that was given twice, the last value counts.
  const table = new Map(pairs);
  const key = asked.trim();
  if (!table.has(key)) throw new Error(`“${asked}” is none of the keys: ask for one of them.`);
  const values = [...new Set(table.values())];
  const lines = pairs.map((pair) => `${pair.join(": ")}\n`).join("");
  const empty = await read(model, [tokenizer.end]);
  const after = await read(model, tokenizer.encode(lines), empty);
  let right = 0;
  let found = [];
  for (const [other, value] of table) {
    const share = await shares(model, tokenizer, other, values, after);
    if (values[share.indexOf(Math.max(...share))] === value) right += 1;
    if (other === key) found = share;
  }
  const alone = await shares(model, tokenizer, key, values, empty);
  const rows = values.map((value, n) => ({ value, after: found[n], alone: alone[n] }));
  return { wanted: table.get(key), rows, right, keys: table.size };
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

function recallVerdict({ wanted, rows, right, keys }) {
  const { after, alone } = rows.find((row) => row.value === wanted);
  const moved = `Having read the pairs moves “${wanted}” from ${percent(alone)} to ${percent(after)} among the values.`;
  const all = `Asked for every key in turn, the model puts the right value first for ${right} of ${keys}; guessing gives ${(keys / rows.length).toFixed(0)}.`;
  return element("p", `${moved} ${all}`, right === keys ? "verdict good" : "verdict");
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
  for (const { value, after, alone } of rows) {
    const row = body.insertRow();
    if (value === wanted) row.className = "wanted";
    const name = element("th", value === wanted ? `${value} (asked for)` : value);
    name.scope = "row";
    row.append(name, shareCell(after), shareCell(alone));
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
