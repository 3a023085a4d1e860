"""The synthetic language: probabilities that add up, rules that are enforced, bounds that hold."""

import math
import random
import re
from itertools import product

import pytest
from grammar_reader import log_probability, violations

from fftnet.data import grammar

LIMITS = {
    0.0: grammar.Limits(names=4, top_count=3, top_words=2, top_pairs=2, depth=1, weather=0),
    0.25: grammar.Limits(names=7, top_count=5, top_words=2, top_pairs=3, depth=2, weather=1),
    0.5: grammar.Limits(names=10, top_count=6, top_words=3, top_pairs=4, depth=3, weather=2),
    1.0: grammar.Limits(names=16, top_count=9, top_words=4, top_pairs=6, depth=4, weather=3),
}
BOX = re.compile(r"Packs ([()\[\]{}]*)\.")


@pytest.mark.parametrize("complexity", LIMITS)
def test_the_sampler_and_the_reader_agree_and_every_choice_occurs(complexity: float) -> None:
    rng = random.Random(0)
    limits = LIMITS[complexity]
    drawn = [grammar.sample(rng, complexity) for _ in range(2000)]
    for sample in drawn[:500]:
        assert violations(sample.text, complexity) == []
        assert log_probability(sample.text, complexity) == pytest.approx(sample.log_probability)
    texts = [sample.text for sample in drawn]
    assert max(map(len, texts)) <= grammar.max_length(complexity)
    assert len({text.split()[0] for text in texts}) == limits.names
    assert {int(text.split()[2][:-1]) for text in texts} == set(range(2, limits.top_count + 1))
    lengths = {len(text.split('"')[1].split(" ")) for text in texts}
    assert lengths == set(range(1, limits.top_words + 1))
    assert all(text.count(" It ") == limits.weather for text in texts)


def box_probability(box: str, complexity: float) -> float:
    """Return the probability of brackets, given the rest of a text, which is chosen uniformly."""
    limits = LIMITS[complexity]
    weather = " It rains." * limits.weather
    text = f'Mira counts 2: 1 2. Says "red". Packs {box}.{weather} Then Mira says "red" again.'
    broken = violations(text, complexity)
    if broken:
        assert broken == ["brackets"]
        return 0.0
    rest = limits.names * (limits.top_count - 1) * limits.top_words * len(grammar.WORDS)
    return math.exp(log_probability(text, complexity)) * rest * len(grammar.WEATHER) ** limits.weather


@pytest.mark.parametrize("complexity", [0.0, 0.5])
def test_the_probabilities_of_all_boxes_sum_to_one(complexity: float) -> None:
    longest = 2 * LIMITS[complexity].top_pairs + 1 if complexity == 0 else 6
    boxes = ("".join(box) for length in range(longest + 1) for box in product("()[]{}", repeat=length))
    reached = sum(box_probability(box, complexity) for box in boxes)
    if complexity == 0:
        assert reached == pytest.approx(1.0)
    else:
        # All boxes are too many: the short ones have the share of samples that they should.
        texts = [grammar.sample(random.Random(seed), complexity).text for seed in range(4000)]
        drawn = [found[1] for found in map(BOX.search, texts) if found]
        assert len(drawn) == len(texts)
        assert reached == pytest.approx(sum(len(box) < 7 for box in drawn) / len(drawn), abs=0.03)


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
    assert violations(EXAMPLE.replace(old, new), 0.5) == [rule]


def test_texts_get_harder_and_seeds_repeat() -> None:
    def bits(complexity: float) -> float:
        rng = random.Random(0)
        return -sum(grammar.sample(rng, complexity).log_probability for _ in range(300)) / 300

    assert bits(0.0) < bits(0.5) < bits(1.0)
    assert grammar.sample(random.Random(5), 0.5) == grammar.sample(random.Random(5), 0.5)
    with pytest.raises(ValueError, match=r"pattern_complexity must lie in \[0, 1\], got 1.5"):
        grammar.sample(random.Random(0), 1.5)
