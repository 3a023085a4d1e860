"""A stochastic grammar of texts with short and long dependencies, whose entropy is known exactly.

    Mira counts 4: 1 2 3 4. Says "red owl sings". Packs ([]){}. It rains. Then Mira says
    "red owl sings" again.

A name is introduced early and needed late, numbers count up to the announced one, brackets close, a phrase is
repeated. Every text has only one derivation, so its probability is the product of the probabilities of the
choices. The mean of ``-log p``, the entropy, is a lower bound of the loss of every honest model.
"""

import math
import random
from dataclasses import dataclass

# Samples are drawn from these lists by seed: their order is part of the language.
NAMES = "Mira Oto Lena Finn Ada Karl Nora Emil Ida Theo Vera Hugo Rosa Anton Clara Jonas".split()  # noqa: SIM905
WORDS = "red owl sings blue fox runs old cat sleeps tall tree falls cold star shines".split()  # noqa: SIM905
WEATHER = ("rains", "snows", "clears", "storms", "thaws", "freezes", "dawns", "darkens")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
STOP_PACKING = 0.5
"""Probability that no bracket follows when all are closed."""
OPEN_DEEPER = 0.45
"""Probability of a further bracket inside an open one."""


@dataclass(frozen=True)
class Sample:
    """A text and its probability."""

    text: str
    log_probability: float
    """Natural logarithm of the probability."""


@dataclass(frozen=True)
class Limits:
    """Numbers of names, words a phrase, pairs of brackets and so on, at some complexity."""

    names: int
    top_count: int
    top_words: int
    top_pairs: int
    depth: int
    weather: int


def limits_of(complexity: float) -> Limits:
    """Return the limits at a complexity; outside [0, 1] it is a ValueError."""
    if not 0.0 <= complexity <= 1.0:
        raise ValueError(f"pattern_complexity must lie in [0, 1], got {complexity}")
    return Limits(
        names=4 + round(12 * complexity),
        top_count=3 + round(6 * complexity),
        top_words=2 + round(2 * complexity),
        top_pairs=2 + round(4 * complexity),
        depth=1 + round(3 * complexity),
        weather=round(3 * complexity),
    )


def max_length(complexity: float) -> int:
    """Return the number of characters of the longest possible text."""
    limits = limits_of(complexity)
    name = max(map(len, NAMES[: limits.names]))
    numbers = 2 * limits.top_count - 1
    phrase = limits.top_words * (max(map(len, WORDS)) + 1) - 1
    weather = limits.weather * (max(map(len, WEATHER)) + len(" It ."))
    # Everything that is the same in all texts; counts have one digit.
    fixed = len(' counts 1: . Says "". Packs . Then  says "" again.')
    return fixed + 2 * name + numbers + 2 * phrase + 2 * limits.top_pairs + weather


def sample(rng: random.Random, complexity: float) -> Sample:
    """Draw a text; complexity adds names, higher counts, longer phrases, deeper brackets, more in between."""
    limits = limits_of(complexity)
    name = rng.choice(NAMES[: limits.names])
    count = rng.randint(2, limits.top_count)
    words = rng.choices(WORDS, k=rng.randint(1, limits.top_words))
    weather = rng.choices(WEATHER, k=limits.weather)
    box, box_log_probability = _pack(rng, limits)
    # All but the brackets is chosen uniformly: a choice among n has the probability 1/n.
    choices = math.log(limits.names) + math.log(limits.top_count - 1) + math.log(limits.top_words)
    choices += len(words) * math.log(len(WORDS)) + len(weather) * math.log(len(WEATHER))
    phrase = " ".join(words)
    numbers = " ".join(str(n) for n in range(1, count + 1))
    between = "".join(f" It {happening}." for happening in weather)
    text = f'{name} counts {count}: {numbers}. Says "{phrase}". Packs {box}.{between} '
    return Sample(f'{text}Then {name} says "{phrase}" again.', box_log_probability - choices)


def _pack(rng: random.Random, limits: Limits) -> tuple[str, float]:
    """Draw balanced brackets; return them and the natural logarithm of their probability."""
    box = ""
    waiting: list[str] = []
    pairs = 0
    log_probability = 0.0
    while True:
        # All brackets are closed: stop or begin the next pair.
        if not waiting and pairs:
            if pairs == limits.top_pairs:
                return box, log_probability
            stop = rng.random() < STOP_PACKING
            log_probability += math.log(STOP_PACKING if stop else 1 - STOP_PACKING)
            if stop:
                return box, log_probability
        elif waiting:
            # Brackets are open: open another one if the limits allow a choice, else close the last one.
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
