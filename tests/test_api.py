"""The Python functions train, load, evaluate and generate, and the names of ``import fftnet``."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import python
from torch import nn

import fftnet
from fftnet.api.evaluate import EvaluationConfig
from fftnet.api.generate import SamplingConfig
from fftnet.api.run_config import RunConfig, TaskConfig, configure
from fftnet.api.train import TrainingResult, example_command
from fftnet.cli import train as command
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.serialization import CheckpointError
from fftnet.utils.dataset import DataConfig

DATA: dict[str, Any] = {"num_samples": 8, "batch_size": 4, "pattern_complexity": 0.0}


def run(folder: Path, **settings: Any) -> TrainingResult:
    sizes = {"d_model": 16, "num_heads": 4, "num_layers": 1, "max_seq_length": 160}
    quiet = {"progress": False, "device": "cpu", "trackers": ["none"], "output_dir": str(folder)}
    values: dict[str, Any] = {**sizes, **DATA, **quiet, "max_steps": 3, **settings}
    return fftnet.train(**values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return run(tmp_path_factory.mktemp("api"))


def test_a_trained_model_is_loaded_evaluated_and_generates(trained: TrainingResult) -> None:
    assert [row["step"] for row in trained.history] == [1, 2, 3]
    assert not trained.model.training
    model, tokenizer = fftnet.load(trained.folder, device="cpu")
    tokens = torch.arange(40)[None]
    torch.testing.assert_close(model(tokens), trained.model(tokens), rtol=0, atol=0)
    report = fftnet.evaluate(model, tokenizer, DataConfig(**DATA))
    assert report["split"] == "test"
    assert report["bits_per_byte"] > 0
    config = SamplingConfig(max_new_tokens=5)
    generation = fftnet.generate(model, ["Mira", ""], config, tokenizer=tokenizer)
    assert [len(row) for row in generation.tokens] == [5, 5]
    fftnet.assert_causal(model.double(), tokens, vocab_size=tokenizer.vocab_size)


@pytest.mark.parametrize(
    ("model", "command"),
    [
        (FFTNet(FFTNetConfig(vocab_size=9, d_model=8, num_layers=1)), "fftnet generate 'my run/best'"),
        (
            FFTNet(FFTNetConfig(vocab_size=9, d_model=8, num_layers=1, causal=False, mixers=("spectral",))),
            "fftnet evaluate 'my run/best' --data FILE",
        ),
        (
            FFTNetForSequenceClassification(
                SequenceClassifierConfig(vocab_size=9, d_model=8, num_layers=1, num_classes=2)
            ),
            "fftnet predict 'my run/best' FILE",
        ),
        (nn.Linear(1, 1), None),
    ],
)
def test_a_run_ends_with_a_command_for_its_kind_of_model(model: nn.Module, command: str | None) -> None:
    assert example_command(model, Path("my run/best")) == command


def test_a_bidirectional_model_is_measured_on_its_own_objective(tmp_path: Path) -> None:
    result = run(tmp_path, causal=False, task="masked_token")
    text = tmp_path / "a.txt"
    text.write_text("An owl sings. " * 40)
    loaded, tokenizer = fftnet.load(result.folder)
    report = fftnet.evaluate(loaded, tokenizer, DataConfig(data=[str(text)]), EvaluationConfig(whole=True))
    assert report["split"] == "all"
    assert "whole_documents" not in report
    with pytest.raises(ValueError, match="a bidirectional model can't write"):
        fftnet.generate(loaded, ["An"], tokenizer=tokenizer)


def test_settings_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="next-token training needs causal=True"):
        run(tmp_path, causal=False)
    with pytest.raises(CheckpointError, match="no checkpoint under"):
        fftnet.load(tmp_path)
    with pytest.raises(ValueError, match="unknown task 'guess'; choose from next_token, masked_token"):
        TaskConfig(task="guess")


def test_keywords_train_like_the_flags_of_the_command(tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text("An owl sings to the moon. " * 60)
    bins = {"num_bins": 8}
    result = run(tmp_path / "run", data=text, max_seq_length=32, addressed_spectral=bins, trackers="none")
    assert result.history[-1]["step"] == 3
    model, tokenizer = fftnet.load(result.folder, device="cpu")
    assert model.config.d_model == 16
    assert model.config.mixer_configs["addressed_spectral"].num_bins == 8
    assert isinstance(result.model, FFTNet)
    assert isinstance(fftnet.generate(result.model, "An owl", max_new_tokens=3), str)
    by_path = fftnet.evaluate(model, tokenizer, text)
    assert by_path == fftnet.evaluate(model, tokenizer, [str(text)])
    assert by_path == fftnet.evaluate(model, tokenizer, DataConfig(data=[str(text)]))


def test_keywords_and_flags_give_the_same_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--task image_classification --data a b --mixers fnet spectral --resume --num_epochs 3"
    words += " --spectral.num_anchors 65 --image_classification.patch_size 4"
    with pytest.MonkeyPatch.context() as patch:
        seen: list[RunConfig] = []
        patch.setattr("fftnet.cli.train.train", seen.append)
        command.run(words.split())
    given = configure(
        task="image_classification",
        data=["a", "b"],
        mixers=["fnet", "spectral"],
        resume=True,
        num_epochs=3,
        spectral={"num_anchors": 65},
        image_classification={"patch_size": 4},
    )
    assert seen == [given]
    assert not given.model.causal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rat": 1e-3}, "unexpected keyword 'learning_rat': did you mean learning_rate"),
        ({"adressed_spectral": {}}, "'adressed_spectral': did you mean addressed_spectral"),
        ({"addressed_spectral": {"num_bin": 8}}, "did you mean addressed_spectral.num_bins"),
        ({"mixer_configs": {}}, "unexpected keyword 'mixer_configs'"),
        ({"addressed_spectral": 8}, "addressed_spectral must be a dictionary of settings, got 8"),
        ({"spectral": {"num_anchors": 9}}, "settings of --spectral change nothing: no layer has that mixer"),
        ({"classification": {"pooling": "last"}}, "settings of --classification .*: that is not the --task"),
        ({"config": {"d_model": 64}}, "train takes a RunConfig or keywords .*, got {'d_model': 64}"),
        ({"config": "my.txt"}, "train takes a RunConfig or keywords .*, got 'my.txt'"),
        (
            {"config": RunConfig(), "d_model": 64},
            r"takes a RunConfig or keywords .*, got both \(d_model",
        ),
    ],
)
def test_wrong_keywords_of_train_end_in_a_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fftnet.train(**arguments)


def test_a_dictionary_as_a_configuration_ends_in_a_sentence(trained: TrainingResult) -> None:
    model, tokenizer = trained.model, trained.tokenizer
    assert isinstance(model, FFTNet)
    assert tokenizer is not None
    values: Any = {"max_tokens": 5}
    use = r"config must be of class {0}, got \{{'max_tokens': 5\}}: use {0}\(\*\*values\)"
    with pytest.raises(ValueError, match=use.format("FFTNetConfig")):
        FFTNet(values)
    with pytest.raises(ValueError, match=use.format("EvaluationConfig")):
        fftnet.evaluate(model, tokenizer, "a.txt", values)
    with pytest.raises(ValueError, match=use.format("SamplingConfig")):
        fftnet.generate(model, "a", values)
    with pytest.raises(ValueError, match=r"data must be a DataConfig, got \{'max_tokens': 5\}"):
        RunConfig(data=values)
    with pytest.raises(ValueError, match="data must be a string or a list of strings, got 3"):
        fftnet.evaluate(model, tokenizer, 3)  # pyright: ignore[reportArgumentType]


def test_the_tokenizer_of_a_loaded_model_is_no_part_of_its_weights(trained: TrainingResult) -> None:
    model, tokenizer = fftnet.load(trained.folder, device="cpu")
    assert model.tokenizer is tokenizer
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.state_dict().keys() == trained.model.state_dict().keys()
        assert twin.tokenizer.fingerprint == tokenizer.fingerprint
        text = fftnet.generate(twin, "Mira", max_new_tokens=4)
        assert text == fftnet.generate(model, "Mira", max_new_tokens=4)


def test_public_names_are_imported_on_use() -> None:
    assert all(getattr(fftnet, name) is not None for name in fftnet.__all__)
    assert set(fftnet.__all__) <= set(dir(fftnet))
    with pytest.raises(AttributeError, match="module 'fftnet' has no attribute 'magic'"):
        _ = fftnet.magic  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, fftnet; assert not {'torch', 'numpy', 'numba', 'accelerate'} & set(sys.modules)"
    python("-c", code)
    slow = "{'accelerate', 'transformers'}"
    code = f"import sys, fftnet; fftnet.FFTNet, fftnet.load; assert not {slow} & set(sys.modules)"
    python("-c", code)
