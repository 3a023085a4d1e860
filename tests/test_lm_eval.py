"""The harness's three kinds of requests against one pass over the whole text in float64."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import python
from conftest import randomise
from torch import Tensor

from fftnet.api.generate import SamplingConfig, generate
from fftnet.errors import UserError
from fftnet.model.config import FFTNetConfig
from fftnet.model.fftnet_model import FFTNet
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'fftnet[eval]'")

CHOICES = [
    {"question": "A fox", "choices": [" runs far.", " sings", " naïve"], "gold": 1},
    {"question": "Öre", "choices": ["a", " of 東京 and of the whole country"], "gold": 0},
    {"question": "", "choices": ["Owls", "Fox", "x"], "gold": 2},
]
DOCUMENTS = [{"text": "Öre sings. " * 30}, {"text": "A"}, {"text": "The fox runs, the owl sings in 東京."}]
WRITING = [{"start": "A fox of"}, {"start": "Öre"}, {"start": "The owl sings and sings"}]
TASKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "choices": (
        CHOICES,
        {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}], "target_delimiter": ""}
        | {"doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "gold"},
    ),
    "rolling": (
        DOCUMENTS,
        {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "bits_per_byte"}]}
        | {"doc_to_text": "", "doc_to_target": "{{text}}"},
    ),
    "writing": (
        WRITING,
        {"output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}
        | {"doc_to_text": "{{start}}", "doc_to_target": ""},
    ),
}
"""Data and fields of a task of each kind."""
SETTINGS = ["checkpoint=checkpoint", "checkpoint=checkpoint,batch_size=2,chunk_size=5"]
EVALUATE = f"""
import json
import fftnet.lm_eval
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path="tasks", include_defaults=False)
names = ["choices", "rolling", "writing"]
found = {{}}
for settings in {SETTINGS!r}:
    done = simple_evaluate("fftnet", settings, tasks=names, task_manager=manager, bootstrap_iters=0)
    found[settings] = done["samples"]
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint, and a task of each kind."""
    folder = tmp_path_factory.mktemp("harness")
    torch.manual_seed(3)
    tokenizer = load_tokenizer("bpe", corpus=[row["text"] for row in DOCUMENTS], vocab_size=280)
    sizes: dict[str, Any] = {"d_model": 16, "num_layers": 2, "max_seq_length": 16}
    model = FFTNet(FFTNetConfig(vocab_size=tokenizer.vocab_size, **sizes))
    randomise(model).float().save_pretrained(folder / "checkpoint")
    tokenizer.save(folder / "checkpoint")
    both = FFTNet(FFTNetConfig(vocab_size=tokenizer.vocab_size + 1, causal=False, **sizes))
    both.save_pretrained(folder / "both")
    tokenizer.save(folder / "both")
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=12)
    (text,) = generate(model.eval(), [WRITING[0]["start"]], greedy, tokenizer=tokenizer).texts
    stop = text[len(text) // 2 :][:2]
    (folder / "tasks").mkdir()
    for name, (rows, fields) in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"validation": str(data)}}}
        task = {"task": name, "validation_split": "validation"} | files | fields
        if name == "writing":
            task["generation_kwargs"] = {"until": [stop], "max_gen_toks": 12}
        # The harness reads YAML, which JSON is.
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(task))
    return folder


@pytest.fixture(scope="module")
def all_samples(folder: Path) -> dict[str, Any]:
    return json.loads(offline(folder, "-c", EVALUATE).splitlines()[-1])


@pytest.fixture(params=SETTINGS)
def samples(request: pytest.FixtureRequest, all_samples: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the harness's record of every request by task."""
    return all_samples[request.param]


def offline(folder: Path, *words: str) -> str:
    """Return the output of a new Python process: in this one, the harness's warnings would be errors."""
    names = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    return python(*words, folder=folder, environment=names).stdout


@torch.no_grad()
def log_probabilities(folder: Path, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Return the log-probability of every token but the first, and True where it is the likeliest."""
    model = FFTNet.from_pretrained(folder / "checkpoint").double()
    scores = model(torch.tensor([ids[:-1]]))[0].log_softmax(dim=-1)
    targets = torch.tensor(ids[1:])
    return scores.gather(1, targets[:, None])[:, 0], scores.argmax(dim=-1) == targets


def test_a_choice_has_the_log_probability_of_its_tokens(
    folder: Path, samples: dict[str, list[dict[str, Any]]]
) -> None:
    tokenizer = Tokenizer.load(folder / "checkpoint")
    for row, sample in zip(CHOICES, samples["choices"], strict=True):
        for choice, (answer,) in zip(row["choices"], sample["resps"], strict=True):
            ids = [tokenizer.eot, *tokenizer.encode(row["question"] + choice)]
            context = len(tokenizer.encode(row["question"]))
            each, likeliest = log_probabilities(folder, ids)
            assert float(answer[0]) == pytest.approx(float(each[context:].sum()), abs=1e-4)
            assert str(answer[1]) == str(bool(likeliest[context:].all()))


def test_a_document_is_read_from_its_first_token_to_its_last(
    folder: Path, samples: dict[str, list[dict[str, Any]]]
) -> None:
    tokenizer = Tokenizer.load(folder / "checkpoint")
    for row, sample in zip(DOCUMENTS, samples["rolling"], strict=True):
        each, _ = log_probabilities(folder, [tokenizer.eot, *tokenizer.encode(row["text"])])
        assert float(sample["resps"][0][0]) == pytest.approx(float(each.sum()), rel=1e-5)


@torch.no_grad()
def test_generated_text_is_the_likeliest_up_to_a_stop(
    folder: Path, samples: dict[str, list[dict[str, Any]]]
) -> None:
    tokenizer = Tokenizer.load(folder / "checkpoint")
    model = FFTNet.from_pretrained(folder / "checkpoint").double()
    stopped = 0
    for row, sample in zip(WRITING, samples["writing"], strict=True):
        ids = [tokenizer.eot, *tokenizer.encode(row["start"])]
        written: list[int] = []
        for _ in range(12):
            token = int(model(torch.tensor([ids + written]))[0, -1].argmax())
            if token == tokenizer.eot:
                break
            written.append(token)
        (stop,) = sample["arguments"][0][1]["until"]
        whole = tokenizer.decode(written)
        stopped += stop in whole
        assert sample["resps"][0][0] == whole.partition(stop)[0]
    assert stopped


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"checkpoint": "nowhere"}, r"nowhere/config\.json is missing"),
        ({"checkpoint": "both"}, "the checkpoint is bidirectional, and the harness asks for next tokens"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"batch_size": "many"}, "batch_size must be at least 1, got many"),
        ({"device": "warp"}, "device 'warp' can't be used here"),
    ],
)
def test_wrong_arguments_are_refused(folder: Path, settings: dict[str, Any], sentence: str) -> None:
    from fftnet.lm_eval import FFTNetLM

    settings = settings | {"checkpoint": str(folder / settings.get("checkpoint", "checkpoint"))}
    with pytest.raises(UserError, match=sentence):
        FFTNetLM(**settings)


def test_unsupported_generation_settings_are_refused(folder: Path) -> None:
    from fftnet.lm_eval import FFTNetLM

    model: Any = FFTNetLM(str(folder / "checkpoint"))
    request = SimpleNamespace(args=("A", {"num_beams": 3}))
    with pytest.raises(UserError, match="unsupported generation setting num_beams: a task may set do_sample"):
        model.generate_until([request], disable_tqdm=True)


def test_the_command_is_the_harness_with_our_model(folder: Path) -> None:
    flags = ["--model_args", "checkpoint=checkpoint", "--tasks", "choices", "--include_path", "tasks"]
    shown = offline(folder, "-m", "fftnet", "lm_eval", *flags)
    assert "fftnet (" in shown
    assert "|choices|" in shown
