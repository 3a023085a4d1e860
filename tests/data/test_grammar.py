"""The synthetic language: probabilities that add up, rules that are enforced, bounds that hold."""

import math
import random
import re
from itertools import product
from typing import NamedTuple

import pytest
from grammar_reader import log_probability, violations
from hypothesis import given
from hypothesis import strategies as st

from fftnet.data import grammar

COMPLEXITIES = pytest.mark.parametrize("complexity", [0.0, 0.25, 0.5, 1.0])


@COMPLEXITIES
def test_the_sampler_and_the_reader_agree(complexity: float) -> None:
    rng = random.Random(0)
    for _ in range(500):
        drawn = grammar.sample(rng, complexity)
        assert log_probability(drawn.text, complexity) == pytest.approx(drawn.log_probability)
        assert len(drawn.text) <= grammar.max_length(complexity)


class Limits(NamedTuple):
    """How many of each there are at a complexity."""

    names: int
    counts: int
    phrases: int
    pairs: int
    weather: int


LIMITS = {
    0.0: Limits(names=4, counts=2, phrases=2, pairs=2, weather=0),
    0.25: Limits(names=7, counts=4, phrases=2, pairs=3, weather=1),
    0.5: Limits(names=10, counts=5, phrases=3, pairs=4, weather=2),
    1.0: Limits(names=16, counts=8, phrases=4, pairs=6, weather=3),
}
BOX = re.compile(r"Packs ([()\[\]{}]*)\.")


def box_probability(box: str, complexity: float) -> float:
    """Of these brackets, given everything else in a text: what else is chosen is chosen uniformly."""
    limits = LIMITS[complexity]
    weather = " It rains." * limits.weather
    text = f'Mira counts 2: 1 2. Says "red". Packs {box}.{weather} Then Mira says "red" again.'
    broken = violations(text, complexity)
    if broken:
        assert broken == ["brackets"]
        return 0.0
    others = limits.names * limits.counts * limits.phrases * len(grammar.WORDS)
    return math.exp(log_probability(text, complexity)) * others * len(grammar.WEATHER) ** limits.weather


@pytest.mark.parametrize("complexity", [0.0, 0.5])
def test_the_probabilities_of_all_boxes_sum_to_one(complexity: float) -> None:
    longest = 2 * LIMITS[complexity].pairs + 1 if complexity == 0 else 6
    reached = [
        box_probability("".join(box), complexity)
        for length in range(longest + 1)
        for box in product("()[]{}", repeat=length)
    ]
    if complexity == 0:
        assert sum(reached) == pytest.approx(1.0)
    else:
        texts = [grammar.sample(random.Random(seed), complexity).text for seed in range(4000)]
        drawn = [found[1] for found in map(BOX.search, texts) if found]
        assert len(drawn) == len(texts)
        assert sum(reached) == pytest.approx(sum(len(box) < 7 for box in drawn) / len(drawn), abs=0.03)


@COMPLEXITIES
def test_every_uniform_choice_is_uniform_over_what_occurs(complexity: float) -> None:
    rng = random.Random(1)
    limits = LIMITS[complexity]
    texts = [grammar.sample(rng, complexity).text for _ in range(2000)]
    assert len({text.split()[0] for text in texts}) == limits.names
    assert len({text.split()[2] for text in texts}) == limits.counts
    lengths = {len(text.split('"')[1].split(" ")) for text in texts}
    assert lengths == set(range(1, limits.phrases + 1))
    assert all(text.count(" It ") == limits.weather for text in texts)


EXAMPLE = (
    'Mira counts 4: 1 2 3 4. Says "red owl". Packs ([]){}. It rains. It snows. '
    'Then Mira says "red owl" again.'
)


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("Then Mira", "Then Oto", "name"),
        ("Mira", "Zoe", "name"),
        ("1 2 3 4.", "1 2 3.", "count"),
        ("1 2 3 4.", "1 3 2 4.", "count"),
        ("counts 4: 1 2 3 4", "counts 9: 1 2 3 4 5 6 7 8 9", "count"),
        ('"red owl" again', '"red cat" again', "repeat"),
        ("owl", "elk", "phrase"),
        ("red owl", "red red red red", "phrase"),
        ("([])", "([)]", "brackets"),
        ("([])", "([]", "brackets"),
        ("([]){}", "", "brackets"),
        ("([]){}", "(((())))", "brackets"),
        ("([]){}", "(){}[]{}(){}[]", "brackets"),
        (" It rains.", "", "weather"),
        ("It rains", "It hails", "weather"),
        ("counts", "count", "form"),
        (" again.", " again", "form"),
    ],
)
def test_a_broken_rule_is_named(old: str, new: str, rule: str) -> None:
    assert violations(EXAMPLE, 0.5) == []
    broken = EXAMPLE.replace(old, new)
    assert violations(broken, 0.5) == [rule]


@given(text=st.text(max_size=60))
def test_any_text_can_be_judged(text: str) -> None:
    assert violations(text, 0.5) == ["form"]


def test_texts_get_harder_and_seeds_repeat() -> None:
    def bits(complexity: float) -> float:
        rng = random.Random(0)
        return -sum(grammar.sample(rng, complexity).log_probability for _ in range(300)) / 300

    assert bits(0.0) < bits(0.5) < bits(1.0)
    assert grammar.sample(random.Random(5), 0.5) == grammar.sample(random.Random(5), 0.5)
    with pytest.raises(ValueError, match=r"pattern_complexity must lie in \[0, 1\], got 1.5"):
        grammar.sample(random.Random(0), 1.5)
