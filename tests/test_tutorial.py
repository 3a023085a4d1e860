"""The tutorial runs, with fewer steps and a shorter book; and the site shows what it gave when it ran."""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from fftnet.api.generate import SamplingConfig, generate
from scripts import tutorial

PARAMETERS = {"STEPS": 20, "TOKENS": 20_000}
MOST_PICTURE_BYTES = 100_000


class Ran(NamedTuple):
    """The notebook after it ran."""

    notebook: dict[str, Any]
    names: dict[str, Any]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    notebook = tutorial.load()
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("tutorial"))
    try:
        return Ran(notebook, tutorial.run(notebook, PARAMETERS))
    finally:
        os.chdir(here)


def test_every_cell_of_the_notebook_runs_and_gives_what_it_gave(ran: Ran) -> None:
    def shape(notebook: dict[str, Any]) -> list[list[str]]:
        """Return the kind of every output."""
        cells = tutorial.code_cells(notebook)
        return [[kind for output in cell["outputs"] for kind in output.get("data", output)] for cell in cells]

    kinds = shape(ran.notebook)
    assert kinds == shape(tutorial.load()), "run `make tutorial`"
    assert sum(row.count("image/png") for row in kinds) == 3
    assert ran.names["TOKENS"] == 20_000


def test_forks_are_as_if_the_prompt_were_read_again(ran: Ran) -> None:
    names = ran.names
    ids = [*names["tokens"].tolist(), *names["tokenizer"].encode(" over")]
    sampling = SamplingConfig(max_new_tokens=80, temperature=0.5, seed=1)
    again = generate(names["model"], [ids], sampling, stop=names["tokenizer"].eot).tokens[0]
    assert " over" + names["tokenizer"].decode(again) == names["first"]
    (cell,) = (x for x in tutorial.code_cells(ran.notebook) if "== first" in "".join(x["source"]))
    assert cell["outputs"][0]["data"]["text/plain"] == ["True"]


def test_the_book_is_read_whole_and_leaves_a_state_of_one_size(ran: Ran) -> None:
    names = ran.names
    reads, sizes, memory, losses, _ = zip(*names["rows"], strict=True)
    assert reads[-1] == 20_000
    assert set(sizes) == {sum(tensor.nbytes for layer in names["model"].init_state(1) for tensor in layer)}
    assert max(memory[10:]) - memory[10] < 50e6
    with torch.inference_mode():
        logits, whole = names["model"].prefill(names["book"][None, :-1])
    expected = torch.nn.functional.cross_entropy(logits[0], names["book"][1:]).item()
    assert sum(losses) / len(losses) == pytest.approx(expected, rel=1e-4)
    for mine, one_pass in zip(names["state"], whole, strict=True):
        for a, b in zip(mine, one_pass, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_parameter_that_is_none_is_refused() -> None:
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ["STEPS = 3"]}
    assert tutorial.run({"cells": [dict(cell)]}, {"STEPS": 4})["STEPS"] == 4
    with pytest.raises(KeyError, match="STEP"):
        tutorial.run({"cells": [dict(cell)]}, {"STEP": 4})


def test_the_page_shows_the_notebook_as_it_ran() -> None:
    notebook = tutorial.load()
    text, pictures = tutorial.page(notebook)
    assert (tutorial.DOCS / "tutorial.md").read_text(encoding="utf-8") == text, "run `make tutorial`"
    shown = sorted(path.name for path in (tutorial.DOCS / "tutorial").iterdir())
    assert sorted(Path(name).name for name in pictures) == shown
    for name, content in pictures.items():
        assert (tutorial.DOCS / name).read_bytes() == content
        assert len(content) < MOST_PICTURE_BYTES
    counts = [cell["execution_count"] for cell in tutorial.code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert "1_000_000" in text
    assert re.search(r"^1,000,000 .* \d", text, re.MULTILINE)
    assert not re.search(r"/(home|root|tmp|work)/", json.dumps(notebook))
