"""A stochastic grammar that writes text with structure near and far, and knows its own entropy.

    Mira counts 4: 1 2 3 4. Says "red owl sings". Packs ([]){}. It rains. Then Mira says
    "red owl sings" again.

A name is introduced early and needed late, numbers count up to the one announced, brackets close, a phrase is
repeated. Every text has one derivation only, so its probability is the product of the choices made, and the
mean of ``-log p``, the entropy, is a floor under the loss of every honest model.
"""

import math
import random
import re
from dataclasses import dataclass

NAMES = [
    "Mira",
    "Oto",
    "Lena",
    "Finn",
    "Ada",
    "Karl",
    "Nora",
    "Emil",
    "Ida",
    "Theo",
    "Vera",
    "Hugo",
    "Rosa",
    "Anton",
    "Clara",
    "Jonas",
]
WORDS = [
    "red",
    "owl",
    "sings",
    "blue",
    "fox",
    "runs",
    "old",
    "cat",
    "sleeps",
    "tall",
    "tree",
    "falls",
    "cold",
    "star",
    "shines",
]
WEATHER = ("rains", "snows", "clears", "storms", "thaws", "freezes", "dawns", "darkens")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
STOP_PACKING = 0.5
OPEN_DEEPER = 0.45

_FORM = re.compile(
    r"(?P<name>[A-Za-z]+) counts (?P<count>[0-9]): (?P<numbers>[0-9 ]*)\. "
    r'Says "(?P<phrase>[a-z ]*)"\. Packs (?P<box>[()\[\]{}]*)\.(?P<weather>(?: It [a-z]+\.)*) '
    r'Then (?P<again>[A-Za-z]+) says "(?P<repeat>[a-z ]*)" again\.'
)


class GrammarError(ValueError):
    """A text is not in the language; the message says which rules it breaks."""


@dataclass(frozen=True)
class Sample:
    """A text and how likely it was."""

    text: str
    log_probability: float
    """Natural logarithm."""


@dataclass(frozen=True)
class _Limits:
    names: int
    top_count: int
    top_words: int
    top_pairs: int
    depth: int
    weather: int


def _limits(complexity: float) -> _Limits:
    if not 0.0 <= complexity <= 1.0:
        raise ValueError(f"pattern_complexity must lie in [0, 1], got {complexity}")
    return _Limits(
        names=4 + round(12 * complexity),
        top_count=3 + round(6 * complexity),
        top_words=2 + round(2 * complexity),
        top_pairs=2 + round(4 * complexity),
        depth=1 + round(3 * complexity),
        weather=round(3 * complexity),
    )


def max_length(complexity: float) -> int:
    """Characters of the longest text that can come.

    Raises:
        ValueError: if the complexity lies outside [0, 1].
    """
    limits = _limits(complexity)
    name = max(map(len, NAMES[: limits.names]))
    numbers = 2 * limits.top_count - 1
    phrase = limits.top_words * (max(map(len, WORDS)) + 1) - 1
    weather = limits.weather * (max(map(len, WEATHER)) + len(" It ."))
    fixed = len(' counts 1: . Says "". Packs . Then  says "" again.')
    return fixed + 2 * name + numbers + 2 * phrase + 2 * limits.top_pairs + weather


def sample(rng: random.Random, complexity: float) -> Sample:
    """Draw a text.

    Args:
        rng: the only source of chance.
        complexity: in [0, 1]: more names, higher counts, longer phrases, deeper brackets, more in between.

    Raises:
        ValueError: if the complexity lies outside [0, 1].
    """
    limits = _limits(complexity)
    name = rng.choice(NAMES[: limits.names])
    count = rng.randint(2, limits.top_count)
    words = rng.choices(WORDS, k=rng.randint(1, limits.top_words))
    weather = rng.choices(WEATHER, k=limits.weather)
    box, box_log_probability = _pack(rng, limits)
    choices = math.log(limits.names) + math.log(limits.top_count - 1) + math.log(limits.top_words)
    choices += len(words) * math.log(len(WORDS)) + len(weather) * math.log(len(WEATHER))
    phrase = " ".join(words)
    numbers = " ".join(str(n) for n in range(1, count + 1))
    between = "".join(f" It {happening}." for happening in weather)
    text = f'{name} counts {count}: {numbers}. Says "{phrase}". Packs {box}.{between} '
    return Sample(f'{text}Then {name} says "{phrase}" again.', box_log_probability - choices)


def _pack(rng: random.Random, limits: _Limits) -> tuple[str, float]:
    box = ""
    waiting: list[str] = []
    pairs = 0
    log_probability = 0.0
    while True:
        if not waiting and pairs:
            if pairs == limits.top_pairs:
                return box, log_probability
            stop = rng.random() < STOP_PACKING
            log_probability += math.log(STOP_PACKING if stop else 1 - STOP_PACKING)
            if stop:
                return box, log_probability
        elif waiting:
            free = pairs < limits.top_pairs and len(waiting) < limits.depth
            deeper = free and rng.random() < OPEN_DEEPER
            if free:
                log_probability += math.log(OPEN_DEEPER if deeper else 1 - OPEN_DEEPER)
            if not deeper:
                box += waiting.pop()
                continue
        opening = rng.choice(list(BRACKETS))
        log_probability -= math.log(len(BRACKETS))
        box += opening
        waiting.append(BRACKETS[opening])
        pairs += 1


def violations(text: str, complexity: float) -> list[str]:
    """The rules that a text breaks, by name: ``[]`` for a text of the language, ``["form"]`` if unreadable.

    ``name`` (known, and the same in the end), ``count``, ``phrase`` (known words, not too many), ``repeat``
    (the phrase comes back), ``brackets`` (they close, not too many or deep), ``weather`` (known, as many as
    due).
    """
    limits = _limits(complexity)
    match = _FORM.fullmatch(text)
    if match is None:
        return ["form"]
    count = int(match["count"])
    words = match["phrase"].split(" ")
    weather = re.findall(r" It ([a-z]+)\.", match["weather"])
    rules = {
        "name": match["name"] in NAMES[: limits.names] and match["again"] == match["name"],
        "count": 2 <= count <= limits.top_count
        and match["numbers"] == " ".join(map(str, range(1, count + 1))),
        "phrase": len(words) <= limits.top_words and set(words) <= set(WORDS),
        "repeat": match["repeat"] == match["phrase"],
        "brackets": _box_log_probability(match["box"], limits) > -math.inf,
        "weather": len(weather) == limits.weather and set(weather) <= set(WEATHER),
    }
    return [rule for rule, kept in rules.items() if not kept]


def _box_log_probability(box: str, limits: _Limits) -> float:
    waiting: list[str] = []
    pairs = 0
    total = 0.0
    for character in box:
        free = pairs < limits.top_pairs and len(waiting) < limits.depth
        opens = character in BRACKETS
        if opens and not free:
            return -math.inf
        if waiting and free:
            total += math.log(OPEN_DEEPER if opens else 1 - OPEN_DEEPER)
        elif pairs and not waiting:
            total += math.log(1 - STOP_PACKING)
        if opens:
            waiting.append(BRACKETS[character])
            pairs += 1
            total -= math.log(len(BRACKETS))
        elif not waiting or waiting.pop() != character:
            return -math.inf
    if waiting or not pairs:
        return -math.inf
    return total + (math.log(STOP_PACKING) if pairs < limits.top_pairs else 0.0)


def log_probability(text: str, complexity: float) -> float:
    """Natural logarithm of a text's probability, found by reading it.

    Raises:
        GrammarError: if the text is not in the language, naming the rules that it breaks.
    """
    broken = violations(text, complexity)
    match = _FORM.fullmatch(text)
    if broken or match is None:
        raise GrammarError(f"not in the language, it breaks: {', '.join(broken)}")
    limits = _limits(complexity)
    words = match["phrase"].count(" ") + 1
    uniform = limits.names * (limits.top_count - 1) * limits.top_words
    chosen = words * math.log(len(WORDS)) + limits.weather * math.log(len(WEATHER))
    return _box_log_probability(match["box"], limits) - math.log(uniform) - chosen
