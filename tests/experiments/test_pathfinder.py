"""Images of Pathfinder against the dashes that they were drawn from."""

from pathlib import Path

import numpy as np
import pytest

from experiments.sequences import SEQUENCES
from experiments.sequences.base import repeated
from experiments.sequences.pathfinder import RULES, Scene, dashes, draw_scene
from experiments.sequences.pathfinder_growth import Rules

ON_A_DASH = np.linspace(0, 1, 11)[:, None]
(SMALL,) = RULES["pathfinder32"]
LARGE, LOOSE = RULES["pathfinder128"]
SETS = [(SMALL, 40), (LARGE, 6), (LOOSE, 6)]
NEAREST = {32: 0.7, 128: 3.0}
"""Pixels that dashes of two paths keep between their middle lines."""


def points(ends_L22: np.ndarray) -> np.ndarray:
    """Points all along the dashes of a path, (P, 2)."""
    tails, heads = ends_L22[:, None, 0], ends_L22[:, None, 1]
    return (tails + ON_A_DASH * (heads - tails)).reshape(-1, 2)


def distance(first_P2: np.ndarray, second_P2: np.ndarray) -> np.ndarray:
    """From every point of the one to the nearest of the other, (P,)."""
    return np.sqrt(((first_P2[:, None] - second_P2) ** 2).sum(axis=-1)).min(axis=1)


def scenes(rules: Rules, count: int) -> list[tuple[Scene, list[np.ndarray]]]:
    drawn = [draw_scene(rules, "valid", index) for index in range(count)]
    return [(scene, [*dashes(rules, scene.paths), *dashes(rules, scene.distractors)]) for scene in drawn]


def walk(ends_N22: np.ndarray, start: list[int], margin: int) -> list[int]:
    """Where one comes to from the tail of a dash, always on to the tail nearest to the middle of the gap.

    The dashes are in any order. A gap ends within two pixels of where it should, or there is none.
    """
    left = ends_N22.tolist()
    (dash,) = [dash for dash in left if dash[0] == start]
    while True:
        left.remove(dash)
        tail, head = np.array(dash)
        middle = head + margin * (head - tail) / np.hypot(*(head - tail))
        far = [np.hypot(*(other[0] - middle)) for other in left]
        if not far or min(far) > margin + 2:
            return dash[1]
        dash = left[int(np.argmin(far))]


@pytest.mark.parametrize(("rules", "count"), SETS)
def test_the_label_says_whether_a_walk_from_mark_to_mark_is_possible(rules: Rules, count: int) -> None:
    labels = []
    for index, (scene, paths) in enumerate(scenes(rules, count)):
        start, goal = scene.markers.tolist()
        (path,) = [path for path in paths[:2] if path[0, 0].tolist() == start]
        # Large images have room for walking among all dashes; the small ones are as dense as published.
        dashes_N22 = np.concatenate(paths) if rules.window == 128 else path
        mixed = np.random.default_rng(index).permutation(dashes_N22)
        assert (walk(mixed, start, rules.margin) == goal) == bool(scene.label)
        assert goal in [path[-1, 1].tolist() for path in paths[:2]]
        labels.append(scene.label)
    assert set(labels) == {0, 1}


@pytest.mark.parametrize(("rules", "count"), SETS)
def test_paths_are_dashed_and_keep_apart(rules: Rules, count: int) -> None:
    for _, paths in scenes(rules, count):
        for number, path in enumerate(paths):
            assert len(path) == (rules.dashes if number < 2 else rules.distractor_dashes)
            lengths = np.sqrt(((path[:, 1] - path[:, 0]) ** 2).sum(axis=-1))
            assert abs(lengths - rules.dash_length).max() < 1
            gaps = np.sqrt(((path[1:, 0] - path[:-1, 1]) ** 2).sum(axis=-1))
            assert abs(gaps - 2 * rules.margin).max() <= 2
            for other in paths[:number]:
                assert distance(points(path), points(other)).min() > NEAREST[rules.window]
            assert path.min() >= rules.padding
            assert path.max() < rules.window - rules.padding


@pytest.mark.parametrize(("rules", "count"), [(SMALL, 20), (LARGE, 1)])
def test_what_is_drawn_are_the_dashes_and_the_marks(rules: Rules, count: int) -> None:
    found = set()
    for scene, paths in scenes(rules, count):
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (rules.window, rules.window)
        assert scene.image.max() == 255
        everything = np.concatenate([points(path) for path in paths])
        pixels = np.argwhere(np.ones(scene.image.shape))
        to_dash = distance(pixels, everything).reshape(scene.image.shape)
        to_mark = distance(pixels, scene.markers).reshape(scene.image.shape)
        far = (to_dash > rules.thickness / 2 + 2) & (to_mark > rules.marker_radius + 2)
        # The filter that made the brushes smaller leaves a faint ring around what is drawn.
        assert scene.image[far].max() <= 8
        middles = np.concatenate([path.mean(axis=1) for path in paths])
        around = [
            scene.image[rows, columns]
            for rows in (np.floor(middles[:, 0]).astype(int), np.ceil(middles[:, 0]).astype(int))
            for columns in (np.floor(middles[:, 1]).astype(int), np.ceil(middles[:, 1]).astype(int))
        ]
        assert np.max(around, axis=0).min() > 80
        assert scene.image[to_mark < rules.marker_radius - 1].min() > 200
        found.add(len(scene.distractors))
    assert rules.distractors - 1 <= max(found) <= rules.distractors


def test_a_set_is_rows_of_pixels_in_three_splits(tmp_path: Path) -> None:
    sizes = (120, 30, 30)
    data = SEQUENCES["pathfinder32"](tmp_path, sizes)
    assert data.image_shape == (32, 32)
    splits = (data.train, data.valid, data.test)
    assert tuple(map(len, splits)) == sizes
    assert repeated(splits) == 0
    for rows, name in zip(splits, ("train", "valid", "test"), strict=True):
        scene = draw_scene(SMALL, name, 7)
        assert np.array_equal(rows.row(7).reshape(32, 32), scene.image)
        assert rows.labels[7] == scene.label
    # Half of each class, within four standard deviations.
    assert abs(data.train.labels.mean() - 0.5) < 4 * 0.5 / 120**0.5
    again = SEQUENCES["pathfinder32"](tmp_path, sizes)
    assert np.array_equal(again.train.ids, data.train.ids)


def test_large_images_have_narrow_and_wide_gaps_by_turns(tmp_path: Path) -> None:
    data = SEQUENCES["pathfinder128"](tmp_path, (2, 1, 1))
    assert data.image_shape == (128, 128)
    for index, rules in enumerate((LARGE, LOOSE)):
        assert rules.margin == 2 + index
        scene = draw_scene(rules, "train", index)
        assert np.array_equal(data.train.row(index), scene.image.reshape(-1))


def test_the_brightness_of_the_marks_does_not_tell_the_class() -> None:
    drawn = [draw_scene(SMALL, "train", index) for index in range(200)]
    means = [np.mean([scene.image.mean() for scene in drawn if scene.label == label]) for label in (0, 1)]
    assert abs(means[0] - means[1]) < 1.5
