"""``state.json`` of any content ends in one sentence, before memory is allocated or a file is opened."""

import json
from pathlib import Path
from typing import Any

import pytest

from fftnet.export import ExportError
from fftnet.export.state_file import read_description

ENTRY = {
    "input": "s0",
    "output": "n0",
    "layers": [0, 1],
    "field": "spectrum",
    "shape": [4, 3],
    "dtype": "float32",
    "initial": 0,
    "grows": None,
}
WHOLE: dict[str, Any] = {
    "format": "onnx",
    "version": 2,
    "files": {"step": "step.onnx"},
    "num_parameters": 10,
    "vocab_size": 11,
    "block_length": 7,
    "state": [ENTRY],
}
ANYTHING: list[Any] = [None, True, 3, -1, 2.5, "x", [], [1], ["x"], [[[]]], {}, {"a": 1}, 10**30]
FITS: dict[str, list[Any]] = {
    "files": [{}],
    "num_parameters": [3],
    "vocab_size": [3],
    "block_length": [3],
    "input": ["x"],
    "output": ["x"],
    "field": ["x"],
    "layers": [[], [1], "x", ["x"], {}, {"a": 1}],
    "shape": [[], [1], {}],
    "initial": [True, 3, -1, 2.5, [1], 10**30],
    "grows": [None],
}
"""Values of ``ANYTHING`` that a field may have."""


def write(folder: Path, values: Any) -> None:
    (folder / "state.json").write_text(json.dumps(values))


@pytest.mark.parametrize("name", [*WHOLE, *ENTRY])
def test_a_field_of_a_wrong_type_ends_in_a_sentence(tmp_path: Path, name: str) -> None:
    write(tmp_path, WHOLE)
    read_description(tmp_path)
    for value in ANYTHING:
        if any(value is fitting or value == fitting for fitting in FITS.get(name, [])):
            continue
        write(tmp_path, WHOLE | ({"state": [ENTRY | {name: value}]} if name in ENTRY else {name: value}))
        with pytest.raises(ExportError, match=r"state\.json is (damaged, export|not of format)"):
            read_description(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"step": "/etc/passwd"}}, "files must name files of the folder, got '/etc/passwd'"),
        ({"files": {"step": "..\\x"}}, "files must name files of the folder"),
        ({"vocab_size": 10**12}, "vocab_size must be a whole number from 1 to 16777216, got 10{12}"),
        ({"block_length": 0}, "block_length must be a whole number from 1 to 1048576, got 0"),
        ({"state": []}, "state must have an entry for each tensor"),
        ({"state": [{"input": "s0"}]}, "'output' is missing"),
        ({"state": [ENTRY | {"input": []}]}, r"input must be a text, got \[\]"),
        ({"state": [ENTRY | {"field": "class"}]}, "Type names and field names .*: 'class'"),
        ({"state": [ENTRY, ENTRY]}, "Encountered duplicate field name: 'spectrum'"),
        ({"state": [ENTRY | {"shape": [10**6, 10**6]}]}, "shape must have from 0 to 268435456 numbers, got"),
        ({"state": [ENTRY | {"dtype": "save"}]}, "dtype must be float32 or int64, got 'save'"),
        ({"state": [ENTRY | {"grows": 2}]}, "grows must be a whole number from 0 to 1, got 2"),
    ],
)
def test_a_field_out_of_range_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, WHOLE | change)
    with pytest.raises(ExportError, match=rf"state\.json is damaged, export the model again: {message}"):
        read_description(tmp_path)


def test_what_is_no_json_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"state\.json is missing: create the folder with fftnet export"):
        read_description(tmp_path)
    for text in ("[" * 100_000, '{"a": ', "3", "[]", "null", '"x"', "\udcff"):
        (tmp_path / "state.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ExportError, match=r"state\.json is (damaged|not of format onnx)"):
            read_description(tmp_path)
