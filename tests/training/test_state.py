"""Everything that a run needs to go on: the state of the random generators, counters, history."""

import random
from pathlib import Path

import numpy as np
import torch

from fftnet import serialization
from fftnet.training.state import random_state, set_random_state


def test_random_generators_go_on_where_they_stood(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.normal()), float(torch.randn(()))]

    draw()
    tensors, values = random_state(torch.device("cpu"))
    serialization.write_json(tmp_path / "rng.json", values)
    expected = draw()
    assert draw() != expected
    set_random_state(tensors, serialization.read_json(tmp_path / "rng.json"), torch.device("cpu"))
    assert draw() == expected
