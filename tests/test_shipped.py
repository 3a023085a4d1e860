"""The models that come with the repository: small, whole, described, and able to write."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional

import fftnet
from fftnet.api.evaluate import trained_with
from fftnet.api.generate import SamplingConfig
from fftnet.api.load import RUN_FILE
from fftnet.model.config import FFTNetConfig

MODELS = Path(__file__).parents[1] / "models"
SHIPPED = sorted(path.name for path in MODELS.iterdir() if path.is_dir())
MOST_BYTES = 8_000_000
# Not of Shakespeare, but of his time and language: Jonson's lines in front of his works, and Marlowe's.
VERSES = {
    "shakespeare": "This figure, that thou here seest put,\nIt was for gentle Shakespeare cut;\n"
    "Wherein the graver had a strife\nWith nature, to out-do the life.\n"
    "\nWas this the face that launch'd a thousand ships,\nAnd burnt the topless towers of Ilium?\n",
}
BITS = {"shakespeare": 2.9}
"""Bits per byte of these verses at most; a model that knows the frequencies of letters needs 4.3."""


def test_something_is_shipped() -> None:
    assert sorted(VERSES) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_small_and_its_card_tells_its_size(name: str) -> None:
    folder = MODELS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MOST_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    model, _ = fftnet.load(folder, device="cpu")
    assert f"{model.num_parameters():,} parameters" in card
    for word in ("## Data", "Licence", "bits per byte", "## Limits", "fftnet train --config"):
        assert word in card
    assert not re.search(r"/(home|root|tmp|work)/", card + (folder / "config.json").read_text())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_knows_its_language(name: str) -> None:
    model, tokenizer = fftnet.load(MODELS / name, device="cpu")
    ids = torch.tensor([[tokenizer.eot, *tokenizer.encode(VERSES[name])]])
    with torch.no_grad():
        logits = model(ids[:, :-1])
    nats = functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
    assert nats / len(VERSES[name].encode()) / torch.tensor(2.0).log().item() < BITS[name]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_tells_its_training_as_fftnet_evaluate_needs_it(name: str) -> None:
    model, tokenizer = fftnet.load(MODELS / name, device="cpu")
    trained = trained_with(model, tokenizer, MODELS / name / RUN_FILE)
    recipe = yaml.safe_load((MODELS.parent / "recipes" / f"{name}.yaml").read_text())
    assert trained.task == "next_token"
    assert trained.data["data"] == recipe["data"]
    run = json.loads((MODELS / name / RUN_FILE).read_text())
    assert model.config == FFTNetConfig(**run["model"])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_writes_words(name: str) -> None:
    model, tokenizer = fftnet.load(MODELS / name, device="cpu")
    config = SamplingConfig(max_new_tokens=200, temperature=0.5)
    (text,) = fftnet.generate(model, ["The king"], config, tokenizer=tokenizer).texts
    words = re.findall(r"[a-z']+", text.lower())
    common = {"the", "and", "of", "to", "that", "is", "my", "i", "you", "in", "a", "not", "his", "with"}
    assert len(common.intersection(words)) >= 4
