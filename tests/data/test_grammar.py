"""The synthetic language: probabilities that add up, rules that are enforced, bounds that hold."""

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fftnet.data import grammar

COMPLEXITIES = pytest.mark.parametrize("complexity", [0.0, 0.25, 0.5, 1.0])


@COMPLEXITIES
def test_the_sampler_and_the_reader_agree(complexity: float) -> None:
    rng = random.Random(0)
    for _ in range(500):
        drawn = grammar.sample(rng, complexity)
        assert grammar.log_probability(drawn.text, complexity) == pytest.approx(drawn.log_probability)
        assert len(drawn.text) <= grammar.max_length(complexity)


@pytest.mark.parametrize("complexity", [0.0, 0.5])
def test_the_probabilities_of_all_boxes_sum_to_one(complexity: float) -> None:
    limits = grammar._limits(complexity)
    reached = [
        math.exp(grammar._box_log_probability("".join(box), limits))
        for length in range(2 * limits.top_pairs + 2 if complexity == 0 else 7)
        for box in product("()[]{}", repeat=length)
    ]
    if complexity == 0:
        assert sum(reached) == pytest.approx(1.0)
    else:
        drawn = [grammar._pack(random.Random(seed), limits)[0] for seed in range(4000)]
        assert sum(reached) == pytest.approx(sum(len(box) < 7 for box in drawn) / len(drawn), abs=0.03)


@COMPLEXITIES
def test_every_uniform_choice_is_uniform_over_what_occurs(complexity: float) -> None:
    rng, limits = random.Random(1), grammar._limits(complexity)
    texts = [grammar.sample(rng, complexity).text for _ in range(2000)]
    assert len({text.split()[0] for text in texts}) == limits.names
    assert len({text.split()[2] for text in texts}) == limits.top_count - 1
    lengths = {len(text.split('"')[1].split(" ")) for text in texts}
    assert lengths == set(range(1, limits.top_words + 1))
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
    assert grammar.violations(EXAMPLE, 0.5) == []
    broken = EXAMPLE.replace(old, new)
    assert grammar.violations(broken, 0.5) == [rule]
    with pytest.raises(grammar.GrammarError, match=rule):
        grammar.log_probability(broken, 0.5)


@given(text=st.text(max_size=60))
def test_any_text_can_be_judged(text: str) -> None:
    assert grammar.violations(text, 0.5) == ["form"]


def test_texts_get_harder_and_seeds_repeat() -> None:
    def bits(complexity: float) -> float:
        rng = random.Random(0)
        return -sum(grammar.sample(rng, complexity).log_probability for _ in range(300)) / 300

    assert bits(0.0) < bits(0.5) < bits(1.0)
    assert grammar.sample(random.Random(5), 0.5) == grammar.sample(random.Random(5), 0.5)
    with pytest.raises(ValueError, match=r"pattern_complexity must lie in \[0, 1\], got 1.5"):
        grammar.sample(random.Random(0), 1.5)
