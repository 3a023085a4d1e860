// Translates regular expressions of tokenizers to JavaScript, which has no possessive quantifiers and no atomic groups,
// and a different \s. An atomic part becomes a look-ahead that captures, and a back-reference to it.

const ATOM = /^(?:\\[pP]\{\^?\w+\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\\()[\]|*+?{}])/u;
const QUANTIFIER = /^(?:[*+?]|\{\d+(?:,\d*)?\})/u;
const OPENING = /^\((?:\?(?:[:=!>]|i:|<[=!]))?/u;

// Throws an Error whose message is the second half of a sentence.
export function toRegExp(source) {
  let rest = source;
  let atoms = 0;

  const take = (expression) => {
    const found = expression.exec(rest)?.[0] ?? "";
    rest = rest.slice(found.length);
    return found;
  };
  const atomic = (body) => {
    const name = `a${atoms++}`;
    return `(?:(?=(?<${name}>${body}))\\k<${name}>)`;
  };

  const alternatives = () => {
    let text = "";
    while (rest && !rest.startsWith(")")) {
      if (rest.startsWith("|")) {
        text += "|";
        rest = rest.slice(1);
        continue;
      }
      text += quantified(rest.startsWith("(") ? group() : translate(take(ATOM)));
    }
    return text;
  };
  const group = () => {
    const opening = take(OPENING);
    const body = alternatives();
    if (!rest.startsWith(")")) throw new Error("its pattern has a group that JavaScript lacks");
    rest = rest.slice(1);
    if (opening === "(?>") return atomic(body);
    return opening === "(" ? `(?:${body})` : `${opening}${body})`;
  };
  const quantified = (atom) => {
    if (!atom) throw new Error(`its pattern has ${JSON.stringify(rest.slice(0, 8))}, which JavaScript lacks`);
    const quantifier = take(QUANTIFIER);
    if (!quantifier) return atom;
    if (rest.startsWith("+")) {
      rest = rest.slice(1);
      return atomic(atom + quantifier);
    }
    return atom + quantifier + take(/^\?/u);
  };

  const translated = alternatives();
  if (rest) throw new Error("its pattern closes a group that it does not open");
  try {
    return new RegExp(translated, "gu");
  } catch {
    throw new Error("its pattern is not valid in JavaScript");
  }
}

// Unicode's white space, as in the tokenizers' engines; JavaScript's \s differs in two characters.
function translate(atom) {
  return atom.replace(/\\[pP]\{\^?\w+\}|\\./gu, (escape) => {
    if (escape === "\\s") return "\\p{White_Space}";
    if (escape === "\\S") return "\\P{White_Space}";
    if (escape === "\\A") return "^";
    if (escape === "\\z") return "$";
    if (/^\\p\{\^/u.test(escape)) return escape.replace("\\p{^", "\\P{");
    // With the flag u, JavaScript refuses escapes of characters that need none.
    return /^\\[^\w\\^$.*+?()[\]{}|/-]$/u.test(escape) ? escape.slice(1) : escape;
  });
}
