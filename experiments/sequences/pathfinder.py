"""Pathfinder: are two marked ends the two ends of one dashed path? (arXiv 1805.08315, 2011.04006)

Two dashed paths wind among shorter ones that distract. Each image has two discs, one on the first dash of a
path and one on the last dash of the same path (class 1) or of the other (class 0). Written anew after the
published program and its parameters for Long Range Arena, those of the hardest set, with paths of 14 dashes.

Different from the published images: there, the newest dashes of the two paths were not kept apart from each
other, nor was the last dash of one path from the distractors, so that some labels could not be read from the
image; here no two paths touch. Ways are rounded to the nearest pixel, not up. As there, read literally, the
distractors of the small images are brighter than the two paths, by a third.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from experiments.sequences.base import SPLITS, Rows, SequenceData, Sizes, generated, same_length
from experiments.sequences.pathfinder_growth import DEGREES, Brushes, Rules, grow_scene, paint

PUBLISHED = (160_000, 20_000, 20_000)
FINE = 2
"""Brushes are drawn so many times as large and then made smaller."""
SMALL = Rules(
    window=32,
    padding=1,
    margin=1,
    seed_distance=7,
    dash_length=2,
    thickness=0.5,
    marker_radius=1.5,
    dashes=14,
    distractor_dashes=14 // 3,
    distractors=20 // (14 // 3),
    continuity=1.0,
    path_contrast=2 * 0.75,
    distractor_contrast=2.0,
)
LARGE = Rules(
    window=128,
    padding=1,
    margin=2,
    seed_distance=20,
    dash_length=5,
    thickness=1.5,
    marker_radius=3.0,
    dashes=14,
    distractor_dashes=14 // 3,
    distractors=35 // (14 // 3),
    continuity=1.8,
    path_contrast=0.9,
    distractor_contrast=0.9,
)
RULES = {"pathfinder32": (SMALL,), "pathfinder128": (LARGE, LARGE._replace(margin=3))}
"""Rules of a set, which its images take by turns; published is a draw for each image."""


@dataclass(frozen=True)
class Scene:
    """One image, and what it was drawn from."""

    image: np.ndarray
    """uint8 (window, window)."""
    paths: np.ndarray
    """Strokes of the two paths, int64 (2, L, 3)."""
    distractors: np.ndarray
    """Strokes of the distractors, int64 (N, L, 3)."""
    markers: np.ndarray
    """Row and column of the middles of the two discs, int64 (2, 2)."""
    label: int


def _smaller(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), float) / 255


def _line(rules: Rules, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """A dash from the middle of a brush on, and the room that it takes."""
    half = rules.dash_length + math.ceil(rules.thickness) + rules.margin
    middle = half * FINE
    down, right = _ways(rules.dash_length * FINE, np.array([angle]))[0].tolist()
    fine = Image.new("L", (2 * middle + 1, 2 * middle + 1))
    ends = [(middle, middle), (middle + right, middle + down)]
    ImageDraw.Draw(fine).line(ends, fill=255, width=round(rules.thickness * FINE))
    places_N2 = np.argwhere(np.asarray(fine))
    grid_SS2 = np.indices((2 * middle + 1, 2 * middle + 1)).transpose(1, 2, 0)
    distances = ((grid_SS2[:, :, None] - places_N2) ** 2).sum(axis=-1).min(axis=-1)
    room = Image.fromarray(np.where(distances <= (rules.margin * FINE) ** 2, 255, 0).astype(np.uint8))
    return _smaller(fine, 2 * half + 1), _smaller(room, 2 * half + 1)


def _disc(rules: Rules) -> np.ndarray:
    half = math.ceil(rules.marker_radius) + 1
    y, x = np.indices((FINE * (2 * half + 1),) * 2) - FINE * (half + 0.5) + 0.5
    inside = y**2 + x**2 <= (FINE * rules.marker_radius) ** 2
    return _smaller(Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)), 2 * half + 1)


def _ways(length: float, angles: np.ndarray) -> np.ndarray:
    """Rows and columns that a way of this length and direction covers, rounded, int64 (N, 2)."""
    return np.rint(length * np.stack([np.sin(angles), np.cos(angles)], axis=1)).astype(np.int64)


@lru_cache
def brushes_for(rules: Rules) -> Brushes:
    """The dashes in all directions that a path can take, and the disc of a marker."""
    reach = rules.dash_length + rules.margin
    around = np.arange(0, 2 * math.pi, 1 / reach)
    exact = reach * np.stack([np.sin(around), np.cos(around)], axis=1)
    steps = np.unique(np.floor(exact).astype(np.int64), axis=0)
    starts = np.radians(np.arange(DEGREES))
    angles = np.concatenate([starts, np.arctan2(steps[:, 0], steps[:, 1])])
    turns = angles[:, None] - angles[DEGREES:]
    turns = rules.continuity * np.abs((turns + math.pi) % (2 * math.pi) - math.pi)
    drawn = [_line(rules, angle) for angle in [*starts, *(angles[DEGREES:] + math.pi)]]
    lines, masks = map(np.array, zip(*drawn, strict=True))
    return Brushes(
        lines,
        masks,
        _disc(rules),
        heads=_ways(rules.dash_length, angles),
        pivots=_ways(rules.dash_length + 2 * rules.margin, angles),
        margins=_ways(rules.margin, angles),
        steps=steps,
        straight=np.where(turns < math.pi / 2, np.cos(turns) ** 2, 0),
    )


def dashes(rules: Rules, strokes: np.ndarray) -> np.ndarray:
    """Tail and head of strokes (..., 3), each as row and column: int64 (..., 2, 2)."""
    from_head = strokes[..., :1] >= DEGREES
    place = strokes[..., 1:]
    way = brushes_for(rules).heads[strokes[..., 0]]
    tail = np.where(from_head, place - way, place)
    return np.stack([tail, np.where(from_head, place, place + way)], axis=-2)


def draw_scene(rules: Rules, split: str, index: int) -> Scene:
    """The image of a number in a split: a function of these alone."""
    generator = np.random.default_rng((rules.window, SPLITS.index(split), index))
    paths = np.zeros((2, rules.dashes, 3), np.int64)
    distractors = np.zeros((rules.distractors, rules.distractor_dashes, 3), np.int64)
    brushes = brushes_for(rules)
    label, first = generator.integers(0, 2, 2).tolist()
    distractors = distractors[: grow_scene(generator, rules, brushes, paths, distractors)]
    image = np.zeros((rules.window, rules.window))
    for strokes, contrast in ((paths, rules.path_contrast), (distractors, rules.distractor_contrast)):
        for brush, row, column in strokes.reshape(-1, 3).tolist():
            paint(image, brushes.lines[brush], row, column, contrast)
    markers = np.array([paths[first, 0, 1:], paths[first if label else 1 - first, -1, 1:]])
    for row, column in markers.tolist():
        paint(image, brushes.disc, row, column, 1.0)
    grey = np.rint(255 * image / image.max()).astype(np.uint8)
    return Scene(grey, paths, distractors, markers, label)


def _scenes(rules: Sequence[Rules], split: str, count: int) -> Rows:
    ids = np.empty((count, rules[0].window ** 2), np.uint8)
    labels = np.empty(count, np.int64)
    for index in range(count):
        scene = draw_scene(rules[index % len(rules)], split, index)
        ids[index] = scene.image.reshape(-1)
        labels[index] = scene.label
    return same_length(ids, labels)


def _pathfinder(name: str, cache: Path, sizes: Sizes | None) -> SequenceData:
    counts = dict(zip(SPLITS, sizes or PUBLISHED, strict=True))
    rules = RULES[name]
    path = cache / f"{name}-{'-'.join(map(str, counts.values()))}.npz"
    splits = generated(path, lambda split: _scenes(rules, split, counts[split]))
    classes = ("ends of two paths", "ends of one path")
    return SequenceData(*splits, 256, classes, (rules[0].window, rules[0].window))


def pathfinder32(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """Pathfinder of 32 x 32 pixels, rows of 1,024.

    Args:
        cache: folder that keeps what was made; 200,000 images, as published, are 210 MB and 6 minutes.
        sizes: images of training, validation and test; published are 160,000, 20,000 and 20,000.
    """
    return _pathfinder("pathfinder32", cache, sizes)


def pathfinder128(cache: Path, sizes: Sizes | None = None) -> SequenceData:
    """Pathfinder of 128 x 128 pixels, rows of 16,384: Path-X.

    Args:
        cache: folder that keeps what was made; 200,000 images, as published, are 3.3 GB and an hour.
        sizes: images of training, validation and test; published are 160,000, 20,000 and 20,000.
    """
    return _pathfinder("pathfinder128", cache, sizes)
