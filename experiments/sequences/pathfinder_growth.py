"""How the dashed paths of Pathfinder grow: compiled loops over pixels.

A path is strokes (L, 3): number of the brush, and the row and column where the brush is set down. Brushes
below ``DEGREES`` draw from the tail of a dash, in whole degrees; those behind them draw back from its head,
one for each step that a path can take.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

DEGREES = 360
TRIALS = 3
"""How often a next dash is drawn before the path has come to a dead end."""
ATTEMPTS = 5
"""How often a distractor is begun before it is left out."""
PROBES = 1_000
"""Pixels that are tried for the tail of a distractor."""
TOUCHING = 1.8
"""Two soft masks whose sum at a pixel is as large as that touch there."""
CLEAR = 1.3
"""The same for the first dash of a distractor, which keeps farther away."""


class Rules(NamedTuple):
    """The published parameters, all lengths in pixels."""

    window: int
    """Height and width of the image."""
    padding: int
    """Width of the border that stays empty."""
    margin: int
    """Half the gap between two dashes."""
    seed_distance: int
    """Between the tails of the two paths."""
    dash_length: int
    thickness: float
    """Of a dash."""
    marker_radius: float
    dashes: int
    """Of each of the two paths."""
    distractor_dashes: int
    distractors: int
    continuity: float
    """How straight paths are: the angle between two dashes counts so many times."""
    path_contrast: float
    """Brightness of the two paths, where a marker has 1."""
    distractor_contrast: float


class Brushes(NamedTuple):
    """Small images, set down with their middle on a pixel, S pixels wide and high, S odd; N of dashes.

    Beside them stands what follows from the direction of a dash, so that growing needs no trigonometry.
    """

    lines: np.ndarray
    """Brightness of a dash, float64 (N, S, S)."""
    masks: np.ndarray
    """The room that it takes, float64 (N, S, S), 1 near the dash."""
    disc: np.ndarray
    """Brightness of a marker, float64 (M, M)."""
    heads: np.ndarray
    """Rows and columns from the tail to the head, int64 (N, 2)."""
    pivots: np.ndarray
    """Rows and columns from a dash's pivot, a margin before its tail, to the next pivot, int64 (N, 2)."""
    margins: np.ndarray
    """Rows and columns from the pivot to the tail, int64 (N, 2)."""
    steps: np.ndarray
    """Rows and columns from a pivot to a head, int64 (K, 2)."""
    straight: np.ndarray
    """Weight of a step behind a dash, float64 (N, K): 1 straight on, 0 for steps to the side and back."""


@numba.njit(cache=True)
def below(generator: np.random.Generator, bound: int) -> int:
    """One of the whole numbers from 0 on that are below the bound; quicker to compile than ``integers``."""
    return int(generator.random() * bound)


@numba.njit(cache=True)
def paint(image: np.ndarray, brush: np.ndarray, row: int, column: int, contrast: float) -> None:
    """Set a brush down: every pixel becomes as bright as the brush there, or stays brighter."""
    half = brush.shape[0] // 2
    for y in range(max(0, row - half), min(image.shape[0], row + half + 1)):
        for x in range(max(0, column - half), min(image.shape[1], column + half + 1)):
            image[y, x] = max(image[y, x], contrast * brush[y - row + half, x - column + half])


@numba.njit(cache=True)
def _touches(taken: np.ndarray, mask: np.ndarray, row: int, column: int, bound: float) -> bool:
    half = mask.shape[0] // 2
    for y in range(max(0, row - half), min(taken.shape[0], row + half + 1)):
        for x in range(max(0, column - half), min(taken.shape[1], column + half + 1)):
            if taken[y, x] + mask[y - row + half, x - column + half] >= bound:
                return True
    return False


@numba.njit(cache=True)
def _most_around(taken: np.ndarray, row: int, column: int, radius: int) -> float:
    most = 0.0
    for y in range(max(0, row - radius), min(taken.shape[0], row + radius + 1)):
        for x in range(max(0, column - radius), min(taken.shape[1], column + radius + 1)):
            if (y - row) ** 2 + (x - column) ** 2 <= radius**2:
                most = max(most, taken[y, x])
    return most


@numba.njit(cache=True)
def _inside(taken: np.ndarray, row: int, column: int) -> bool:
    return 0 <= row < taken.shape[0] and 0 <= column < taken.shape[1]


@numba.njit(cache=True)
def _next_step(
    generator: np.random.Generator,
    rules: Rules,
    brushes: Brushes,
    taken: np.ndarray,
    row: int,
    column: int,
    last: int,
) -> int:
    """The step from a pivot to the next head behind the last dash, straight ones being likelier.

    Returns:
        Its number; -1 in a dead end.
    """
    count = len(brushes.steps)
    bounds = np.zeros(count)
    total = 0.0
    for step in range(count):
        y = row + brushes.steps[step, 0]
        x = column + brushes.steps[step, 1]
        if brushes.straight[last, step] > 0 and _inside(taken, y, x):
            total += brushes.straight[last, step] * (1 - _most_around(taken, y, x, rules.margin))
        bounds[step] = total
    if total < 1e-4:
        return -1
    for _ in range(TRIALS):
        aim = generator.random() * total
        step = 0
        while bounds[step] <= aim:
            step += 1
        y = row + brushes.steps[step, 0]
        x = column + brushes.steps[step, 1]
        if not _touches(taken, brushes.masks[DEGREES + step], y, x, TOUCHING):
            return step
    return -1


@numba.njit(cache=True)
def _grow(
    generator: np.random.Generator,
    rules: Rules,
    brushes: Brushes,
    taken: np.ndarray,
    strokes: np.ndarray,
) -> bool:
    """Grow paths, a dash of each in turn, from their first strokes on.

    Args:
        generator: of the steps.
        rules: the parameters.
        brushes: made for them.
        taken: the room that each path finds taken, float64 (N, window, window), alike for all; that of the
            paths themselves is added.
        strokes: of the paths, (N, L, 3), the first of each given.

    Returns:
        Whether all came to their length.
    """
    paths = len(strokes)
    pivots = np.zeros((paths, 2), np.int64)
    for path in range(paths):
        for axis in range(2):
            pivots[path, axis] = strokes[path, 0, 1 + axis] - brushes.margins[strokes[path, 0, 0], axis]
        _take(brushes, taken, strokes, path, 0, False)
    for dash in range(1, strokes.shape[1]):
        for path in range(paths):
            last = strokes[path, dash - 1, 0]
            row = pivots[path, 0] + brushes.pivots[last, 0]
            column = pivots[path, 1] + brushes.pivots[last, 1]
            step = _next_step(generator, rules, brushes, taken[path], row, column, last)
            if step < 0:
                return False
            _take(brushes, taken, strokes, path, dash - 1, True)
            pivots[path, 0] = row
            pivots[path, 1] = column
            strokes[path, dash, 0] = DEGREES + step
            strokes[path, dash, 1] = row + brushes.steps[step, 0]
            strokes[path, dash, 2] = column + brushes.steps[step, 1]
            _take(brushes, taken, strokes, path, dash, False)
    for path in range(paths):
        _take(brushes, taken, strokes, path, strokes.shape[1] - 1, True)
    return True


@numba.njit(cache=True)
def _take(brushes: Brushes, taken: np.ndarray, strokes: np.ndarray, path: int, dash: int, own: bool) -> None:
    """Take the room of a dash from the path itself, or from all others.

    The last dash is no obstacle to the next one, which begins beside it, but is one to other paths at once.
    """
    brush = strokes[path, dash, 0]
    for other in range(len(taken)):
        if (other == path) == own:
            paint(taken[other], brushes.masks[brush], strokes[path, dash, 1], strokes[path, dash, 2], 1.0)


@numba.njit(cache=True)
def _begin_paths(
    generator: np.random.Generator, rules: Rules, brushes: Brushes, taken: np.ndarray, strokes: np.ndarray
) -> bool:
    """The first strokes of the two paths: a tail in the middle, the other at its distance anywhere around."""
    edge = 2 * rules.seed_distance
    row = edge + below(generator, rules.window - 2 * edge)
    column = edge + below(generator, rules.window - 2 * edge)
    angle = 2 * math.pi * generator.random()
    down = round(rules.seed_distance * math.sin(angle))
    right = round(rules.seed_distance * math.cos(angle))
    for path in range(2):
        strokes[path, 0, 0] = below(generator, DEGREES)
        strokes[path, 0, 1] = row + path * down
        strokes[path, 0, 2] = column + path * right
    _take(brushes, taken, strokes, 0, 0, False)
    return not _touches(taken[1], brushes.masks[strokes[1, 0, 0]], row + down, column + right, TOUCHING)


@numba.njit(cache=True)
def _begin_distractor(
    generator: np.random.Generator, rules: Rules, brushes: Brushes, taken: np.ndarray, strokes: np.ndarray
) -> bool:
    """The first stroke of a distractor, in any direction, where there is room; false if none was found."""
    brush = below(generator, DEGREES)
    down, right = brushes.heads[brush]
    for _ in range(PROBES):
        row = below(generator, rules.window)
        column = below(generator, rules.window)
        inside = _inside(taken, row + down, column + right)
        if inside and not _touches(taken, brushes.masks[brush], row, column, CLEAR):
            strokes[0, 0, 0] = brush
            strokes[0, 0, 1] = row
            strokes[0, 0, 2] = column
            return True
    return False


@numba.njit(cache=True)
def grow_scene(
    generator: np.random.Generator,
    rules: Rules,
    brushes: Brushes,
    paths: np.ndarray,
    distractors: np.ndarray,
) -> int:
    """Grow the two paths, as often as it takes, and then the distractors between them.

    Args:
        generator: of all that is drawn.
        rules: the parameters.
        brushes: made for them.
        paths: gets the strokes of the two paths, int64 (2, L, 3).
        distractors: gets the strokes of the distractors, int64 (N, L, 3).

    Returns:
        How many distractors found room.
    """
    border = rules.padding
    taken = np.empty((2, rules.window, rules.window))
    grown = False
    while not grown:
        taken[:] = 1
        taken[:, border:-border, border:-border] = 0
        if _begin_paths(generator, rules, brushes, taken, paths):
            grown = _grow(generator, rules, brushes, taken, paths)
    room = taken[:1]
    found = 0
    for _ in range(rules.distractors):
        for _ in range(ATTEMPTS):
            trial = room.copy()
            strokes = distractors[found : found + 1]
            begun = _begin_distractor(generator, rules, brushes, trial[0], strokes)
            if begun and _grow(generator, rules, brushes, trial, strokes):
                room = trial
                found += 1
                break
    return found
