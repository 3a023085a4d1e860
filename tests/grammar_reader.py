"""A reader of the synthetic language: an independent check of the texts and probabilities of its sampler."""

import math
import re

from fftnet.data.grammar import BRACKETS, NAMES, OPEN_DEEPER, STOP_PACKING, WEATHER, WORDS, Limits, limits_of

FORM = re.compile(
    r"(?P<name>[A-Za-z]+) counts (?P<count>[0-9]): (?P<numbers>[0-9 ]*)\. "
    r'Says "(?P<phrase>[a-z ]*)"\. Packs (?P<box>[()\[\]{}]*)\.(?P<weather>(?: It [a-z]+\.)*) '
    r'Then (?P<again>[A-Za-z]+) says "(?P<repeat>[a-z ]*)" again\.'
)


def violations(text: str, complexity: float) -> list[str]:
    """Return the rules that a text breaks: ``[]`` for a text of the language, ``["form"]`` if unreadable.

    ``name`` (known, and the same in the end), ``count``, ``phrase`` (known words, not too many), ``repeat``
    (the phrase comes back), ``brackets`` (they close, not too many or deep), ``weather`` (known, the right
    number).
    """
    limits = limits_of(complexity)
    match = FORM.fullmatch(text)
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


def log_probability(text: str, complexity: float) -> float:
    """Return the natural logarithm of the probability of a text of the language, from the text alone."""
    match = FORM.fullmatch(text)
    assert match is not None
    limits = limits_of(complexity)
    words = match["phrase"].count(" ") + 1
    uniform = limits.names * (limits.top_count - 1) * limits.top_words
    chosen = words * math.log(len(WORDS)) + limits.weather * math.log(len(WEATHER))
    return _box_log_probability(match["box"], limits) - math.log(uniform) - chosen


def _box_log_probability(box: str, limits: Limits) -> float:
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
