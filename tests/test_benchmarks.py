"""The benchmark measures, writes and refuses; how fast anything is, no test can tell."""

import bz2
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import ROOT, python
from matplotlib.figure import Figure

from benchmarks import __main__ as command
from benchmarks import (
    baselines,
    busy,
    compression,
    encoders,
    jobs,
    measure,
    parity,
    pictures,
    report,
    runtimes,
    suites,
)
from benchmarks.settings import Settings
from fftnet import FFTNetConfig, load_tokenizer, serialization
from fftnet.model.fftnet_model import FFTNet
from fftnet.ops import attention

TINY = Settings(
    time_budget=measure.TimeBudget(seconds=0.0, rounds=2, slow=60.0, stop=60.0),
    width=16,
    heads=2,
    layers=1,
    op=((2, 5), (1, 7), (1, 16)),
    mixer=((1, 5), (1, 8)),
    bidirectional=((1, 5), (1, 8)),
    encoder=((24, 3, ((2, 5),)), (16, 2, ((1, 8), (1, 9)))),
    classifier=((2, 4), (1, 8)),
    train=((2, 4), (1, 8)),
    positions=(4, 9),
    batches=(1, 3),
    steps=2,
    read_tokens=70,
    read_width=16,
    memory_mixer=((1, 8),),
    memory_train=((1, 8),),
    busy=(2, 8),
    busy_train_runs=2,
    busy_decode_runs=2,
    runtime_widths=(16,),
    compiler="eager",
    runtime_batches=1,
)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_job(function: Callable[..., Any], _: Any = None, /, **arguments: Any) -> Any:
        return serialization.as_json(function(**arguments))

    monkeypatch.setattr(jobs, "run_job", run_job)
    small = partial(baselines.language_model, width=TINY.width, heads=TINY.heads, layers=TINY.layers)
    monkeypatch.setattr(baselines, "default_model", small)


@pytest.mark.usefixtures("in_process")
def test_all_suites_write_json_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--output", str(tmp_path)], TINY) == 0
    found = strict((tmp_path / command.FILE).read_text())["suites"]
    assert list(found) == list(suites.SUITES)
    for name, section in found.items():
        assert section["command"].startswith("python -m benchmarks --output")
        assert section["machine"]["threads"] == torch.get_num_threads()
        assert section["machine"]["dtype"] == "float32"
        assert {row["suite"] for row in section["rows"]} == {name}
    for row in found["op"]["rows"] + found["write"]["rows"]:
        assert row["runs"] == 2
        assert row["seconds_quartiles"][0] <= row["seconds"] <= row["seconds_quartiles"][1]
        assert (row["times_ours"] is None) == (row["side"] == measure.OURS)
    others = {"attention", "FNet", "own products"}
    assert {row["side"] for row in found["op"]["rows"]} == set(pictures.COLOURS) - others
    assert {(row["batch"], row["tokens"]) for row in found["write"]["rows"]} == {(1, 4), (1, 9), (3, 4)}
    cases = {(row["width"], row["batch"], row["tokens"], row["side"]) for row in found["encoder"]["rows"]}
    lengths = ((24, 2, 5), (16, 1, 8), (16, 1, 9))
    assert cases == {(*case, side) for case in lengths for side in (*encoders.MIXERS_OF, baselines.PAIR)}
    sides = {(row["tokens"], row["side"]) for row in found["classifier"]["rows"]}
    assert sides == {(tokens, side) for tokens in (4, 8) for side in encoders.MIXERS_OF}
    (read,) = found["read"]["rows"]
    assert read["state_bytes"] == read["state_bytes_at_start"] > 0
    assert len(found["memory"]["rows"]) == 4
    assert {row["runs"] for row in found["busy"]["rows"]} == {2}
    for name in (command.LENGTH_PICTURE, command.OVERVIEW_PICTURE):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "Reading 70 tokens: " in printed
    for table in report.TABLES:
        assert f"{table.title}: " in printed


@pytest.mark.usefixtures("in_process")
def test_a_suite_alone_keeps_what_the_others_found(tmp_path: Path) -> None:
    earlier = {"command": "python -m benchmarks --only train", "rows": []}
    serialization.write_json(tmp_path / command.FILE, {"suites": {"train": earlier, "op": earlier}})
    assert command.main(["--output", str(tmp_path), "--only", "op"], TINY) == 0
    found = strict((tmp_path / command.FILE).read_text())["suites"]
    assert list(found) == ["op", "train"]
    assert found["train"] == earlier
    assert found["op"]["command"].endswith("--only op")


def test_the_stored_results_are_drawn_again_with_the_names_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Path(__file__).parents[1] / "docs" / command.FILE
    figures: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    monkeypatch.setattr(parity, "check", pytest.fail)
    shutil.copy(stored, tmp_path)
    assert command.main(["--output", str(tmp_path), "--only"]) == 0
    assert (tmp_path / command.FILE).read_text() == stored.read_text()
    length, overview = figures
    assert length.get_suptitle() == "Time and peak memory over sequence length"
    shown = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in length.axes]
    assert shown[0][0] == shown[1][0] == "FFTNet"
    assert shown[2][0] == "FFTNet (bidirectional)"
    assert shown[3] == ["FFTNet", "attention"]
    for axes in overview.axes:
        assert axes.get_lines()[0].get_label() == "FFTNet"
        assert axes.get_ylim()[0] == 0
    for axes in (*length.axes, *overview.axes):
        assert not any("ours" in text.get_text() for text in axes.get_legend().get_texts())


def wrong_gradient(right: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def function(*inputs: Any, **options: Any) -> torch.Tensor:
        y = right(*inputs, **options)
        return 2 * y.detach() - y

    return function


def wrong_value(right: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *inputs, **options: right(*inputs, **options) * 1.01


@pytest.mark.parametrize("wrong", [wrong_value, wrong_gradient])
@pytest.mark.parametrize(
    ("owner", "name", "blamed"),
    [
        (baselines, "eager_keyed_mix", "our causal operator and its eager version"),
        (baselines, "ours_keyed_mix", "our causal operator and its eager version"),
        (encoders, "eager_spectral_mix", "our bidirectional mixer and its eager version"),
        (attention, "causal_attention", "attention and a direct softmax"),
        (attention, "full_attention", "bidirectional_attention and a direct softmax"),
    ],
)
def test_nothing_is_reported_when_two_implementations_differ(
    owner: Any,
    name: str,
    blamed: str,
    wrong: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(owner, name, wrong(getattr(owner, name)))
    assert command.main(["--output", str(tmp_path)], TINY) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: nothing is reported: {blamed} differ by ")
    assert len(printed.err.splitlines()) == 1
    assert not printed.out
    assert not list(tmp_path.iterdir())


def test_a_decode_step_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    step = FFTNet.step

    def wrong(self: FFTNet, token_B: torch.Tensor, state: Any) -> Any:
        logits_BV, state = step(self, token_B, state)
        return logits_BV.roll(1, dims=0), state

    monkeypatch.setattr(FFTNet, "step", wrong)
    with pytest.raises(parity.ParityError, match="decode steps and the whole text through addressed_spec"):
        parity.check()


def test_sides_take_turns_and_a_slow_one_counts_once() -> None:
    calls: list[str] = []
    seconds = {"a": 0.1, "b": 0.2, "slow": 9.0}

    def clock(run: Callable[[], object]) -> float:
        run()
        # The first call of b compiles.
        return 8.0 if calls == ["a", "b"] else seconds[calls[-1]]

    time_budget = measure.TimeBudget(seconds=60.0, rounds=3, slow=5.0, stop=9.0)
    times = measure.paired(
        {name: lambda name=name: calls.append(name) for name in seconds}, time_budget, clock
    )
    assert calls == ["a", "b", "b", "slow", "slow", *"aabb", *"bbaa", *"aabb"]
    assert times == {"a": [0.1] * 3, "b": [0.2] * 3, "slow": [9.0]}
    ours, other = measure.rows("s", "w", 1, 2, {"ours": [1.0, 2.0], "x": [4.0, 4.0, 8.0]})
    assert ours.times_ours is None
    assert other.times_ours == (2.5, 3.0, 3.5)


def test_a_side_is_left_out_once_a_run_took_too_long() -> None:
    lengths: list[tuple[str, int]] = []

    def make(_: int, tokens: int) -> baselines.Calls:
        return {name: lambda name=name: lengths.append((name, tokens)) for name in ("ours", "other")}

    time_budget = measure.TimeBudget(seconds=0.0, rounds=1, slow=60.0, stop=-1.0)
    rows = list(suites._sweep("s", "w", ((1, 4), (1, 8)), make, time_budget))
    assert [(row.side, row.tokens) for row in rows] == [("ours", 4), ("other", 4)]
    assert {tokens for _, tokens in lengths} == {4}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="needs a peak that can be reset")
def test_peak_growth_sees_a_smaller_peak_after_a_larger_one() -> None:
    # In a new process, as it is measured: this one may free more than the call takes.
    code = (
        "import torch\nfrom benchmarks.memory import peak_growth\n"
        "for size in (64, 48):\n    print(peak_growth(lambda: torch.ones(size, 2**18).sum()))"
    )
    for megabytes, growth in zip((64, 48), map(int, python("-c", code).stdout.split()), strict=True):
        assert megabytes * 2**20 * 0.9 < growth < megabytes * 2**20 * 1.5


def test_runtimes_tell_the_bits_of_a_checkpoint_and_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the model itself for all runtimes: test_all_suites_write_json_and_pictures exports one."""

    def writers(model: FFTNet, _: Path) -> dict[str, Any]:
        wrong = SimpleNamespace(step=broken(model), prefill=model.prefill, init_state=model.init_state)
        return {measure.OURS: model, runtimes.ONNX: wrong, runtimes.INT8: model}

    def broken(model: FFTNet) -> Callable[..., Any]:
        def step(token: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            logits, after = model.step(token, state)
            return logits * factor, after

        return step

    tokenizer = load_tokenizer("bytes")
    FFTNet(FFTNetConfig(vocab_size=257, d_model=8, num_layers=1, max_seq_length=12)).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    monkeypatch.setattr(runtimes, "writers", writers)
    words = ["--only", "runtimes", "--checkpoint", str(tmp_path), "--output", str(tmp_path / "out")]
    factor = 1.0
    assert command.main(words, replace(TINY, runtime_widths=())) == 0
    rows = strict((tmp_path / "out" / command.FILE).read_text())["suites"]["runtimes"]["rows"]
    assert [row["side"] for row in rows] == [measure.OURS, runtimes.ONNX, runtimes.INT8]
    assert all(7.5 < row["bits_per_byte"] < 9 for row in rows), "an untrained model needs about 8 bits"
    factor = 50.0
    for settings, blamed in (
        (replace(TINY, runtime_widths=()), "bits per byte of ONNX Runtime and of PyTorch"),
        (TINY, r"ONNX Runtime and PyTorch (D = 16)"),
    ):
        assert command.main([*words[:-1], str(tmp_path / "none")], settings) == 1
        assert f"nothing is reported: {blamed} differ by" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()


def test_a_job_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    passive = busy.environment({"OMP_WAIT_POLICY": "PASSIVE"})
    found = jobs.run_job(measure.machine, passive)
    assert found["threads"] == 3
    assert found["wait_policy"] == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert jobs.run_job(os.getenv, key="BENCHMARK", default="none") == "none"


def test_the_performance_page_has_the_tables_of_the_stored_results() -> None:
    stored = strict((ROOT / "docs" / command.FILE).read_text())["suites"]
    results = {name: section["rows"] for name, section in stored.items()}
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for table in report.TABLES:
        assert table.markdown(results) in page, "copy the table that `python -m benchmarks --only` prints"


def test_compression_is_compared_with_other_compressors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FFTNet(FFTNetConfig(vocab_size=257, d_model=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    load_tokenizer("bytes").save(tmp_path)
    text = tmp_path / "text"
    text.write_bytes(b"to be or not to be " * 30)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compression.main([str(text), "--model", str(tmp_path), "--bytes", "500"]) == 0
    printed = capsys.readouterr().out
    found = dict(re.findall(r"^\| (.+?) \| ([\d.]+) \| [\d,]+ \| [\d,]+ \|$", printed, re.MULTILINE))
    assert list(found) == ["FFTNet", "xz -9e", "bzip2 -9"]
    small = bz2.compress(text.read_bytes()[:500])
    assert float(found["bzip2 -9"]) == pytest.approx(8 * len(small) / 500, abs=1e-3)
    assert "zstd -19 is left out: the program zstd is not installed" in printed
    text.write_bytes(b"")
    assert compression.main([str(text), "--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: a text is empty, name others\n"


def test_a_sentence_names_the_winner_of_each_case() -> None:
    row = {"work": "w", "batch": 2}
    times = {("ours", 8): 2.0, ("other", 8): 1.0, ("ours", 9): 1.0, ("other", 9): 4.0, ("bare", 9): 0.1}
    rows = [row | {"side": side, "tokens": tokens, "seconds": s} for (side, tokens), s in times.items()]
    sides = {"ours": "FFTNet", "other": "rival"}
    table = report.Table(title="T", suite="s", work="w", sides=sides, shown=lambda row: True)
    assert table.sentence({"s": rows}) == (
        "T: rival wins at 8, 2 times as fast as the next; FFTNet wins at 9, 4 times as fast as the next."
    )
    assert table.markdown({"s": rows}).splitlines() == [
        *("| tokens | FFTNet, ms | rival, ms |", "|---:|---:|---:|"),
        *("| 8 | 2,000 | **1,000** |", "| 9 | **1,000** | 4,000 |"),
    ]
    speeds = replace(table, unit=report.SPEED, sides_down=True).markdown({"s": rows})
    assert speeds.splitlines()[2:] == ["| FFTNet | 1 | **2** |", "| rival | **2** | 0 |"]
    assert report.text({}) == ""
