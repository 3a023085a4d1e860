"""Markdown of the report: tables, numbers with their spread, and the sentence about the best model."""

from collections.abc import Mapping, Sequence

OURS = "FFTNet"
"""Start of the names of our layers."""

Scores = Mapping[str, Sequence[float]]
"""Name of a model to its scores, one for each seed."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table. The first column is text, the others are numbers."""
    # Numbers are aligned to the right.
    lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    return "\n".join([*lines, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def mean(values: Sequence[float]) -> float:
    """Return the mean over the seeds."""
    return sum(values) / len(values)


def number(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean over the seeds, ± half the distance from smallest to largest if there are several."""
    if not values:
        return ""
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.{digits}f}"


def count(numbers: int | None) -> str:
    """Return the size of a state; None is a state that grows with the text."""
    return "grows" if numbers is None else f"{numbers:,}"


def ranges(scores: Scores, digits: int = 3) -> str:
    """Return the smallest and the largest seed of each model that has several."""
    found = [
        f"{name} {min(values):.{digits}f} to {max(values):.{digits}f}"
        for name, values in scores.items()
        if len(values) > 1
    ]
    return "; ".join(found)


def joined(parts: Sequence[str]) -> str:
    """Return a list of words as a reader expects it: "a, b and c"."""
    *start, last = parts
    return f"{', '.join(start)} and {last}" if start else last


def winners(scores_of: Mapping[str, Scores], unit: str, lower: bool, digits: int = 3) -> str:
    """Return the sentence that says which model is best, and how far ours or the next one is from it.

    Args:
        scores_of: case to the scores on it; the name of a single case may be empty.
        unit: name of the score, at the start of a sentence.
        lower: True if lower scores are better.
        digits: digits after the point, to which scores are compared.
    """
    places: dict[str, list[str]] = {}
    for case, scores in scores_of.items():
        # Rounded as they are shown, so that equal numbers share the first place.
        means = {name: round(mean(values), digits) for name, values in scores.items() if values}
        ordered = sorted(means, key=lambda name: means[name] if lower else -means[name])
        best = [name for name in ordered if means[name] == means[ordered[0]]]
        others = ordered[len(best) :]
        # One of ours is shown next to the best of the others, and one of the others next to our best.
        is_ours = best[0].startswith(OURS)
        others = [name for name in others if name.startswith(OURS) != is_ours] or others
        shown = [f"{means[best[0]]:.{digits}f}", *(f"{name} {means[name]:.{digits}f}" for name in others[:1])]
        place = f"({'; '.join(shown)})"
        who = (
            f"{joined(best)} {'wins' if len(best) == 1 else 'win'}"
            if len(means) > 1
            else f"only {best[0]} ran"
        )
        # Cases with the same winner share one part of the sentence.
        places.setdefault(who, []).append(f"on {case} {place}" if case else place)
    return f"**{unit}: {'; '.join(f'{who} {joined(found)}' for who, found in places.items())}.**"


def costs(scores_of: Mapping[str, Scores], whole: str, unit: str, lower: bool, digits: int = 3) -> str:
    """Return the sentence of an ablation: the removed part that costs most.

    Args:
        scores_of: case to the scores on it.
        whole: name of the model that has all parts.
        unit: name of the score, at the start of a sentence.
        lower: True if lower scores are better.
        digits: digits after the point.
    """
    found = []
    for case, scores in scores_of.items():
        means = {name: mean(values) for name, values in scores.items() if values}
        # The models of an ablation are named by the removed part.
        parts = [name for name in means if name.startswith("without ")]
        worst = max(parts, key=lambda name: means[name] if lower else -means[name])
        place = f" on {case}" if case else ""
        found.append(
            f"{worst.removeprefix('without ')}{place} "
            f"({means[worst]:.{digits}f}, with all parts {means[whole]:.{digits}f})"
        )
    return f"**{unit}; the part whose removal costs most: {joined(found)}.**"
