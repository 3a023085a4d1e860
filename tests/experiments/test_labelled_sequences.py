"""Classification experiments: models of equal size, batches, losses, and whole runs that learn and resume."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randomise
from torch.nn import functional as F

from experiments import models
from experiments.base import Sweep, Workbench
from experiments.baselines.peers import PEERS
from experiments.building import build_classifier, count_parameters
from experiments.classification import ClassificationExperiment
from experiments.classifier_data import CaseSettings, Curriculum, Part, Reader, Stage
from experiments.images import Images, PaperAblation
from experiments.lra import BriefArena, LongRangeArena
from experiments.pairs import PairClassifier
from experiments.sequences import SEQUENCES
from experiments.sequences.base import Rows, SequenceData, gather
from experiments.training import Budget, OutOfTime
from fftnet.data.windows import padded
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.heads import MEAN
from fftnet.model.mixers import MIXERS
from fftnet.model.mixers.spectral import SpectralMixer
from fftnet.model.vit import ViTConfig, vit_config
from fftnet.tasks.masked_token import MASKED_FRACTION

SIZES = SequenceClassifierConfig(
    vocab_size=9, d_model=16, num_heads=4, num_layers=2, num_classes=3, pooling=MEAN
)


def tiny_vit(image_size: int, patch_size: int) -> ViTConfig:
    return vit_config(
        "tiny", num_classes=3, image_size=image_size, patch_size=patch_size, num_channels=1, pooling=MEAN
    )


def rows(count: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 12, count)
    labels = generator.integers(0, 2, count)
    # The class is what stands first.
    found = [
        np.concatenate([[label], generator.integers(2, 9, size - 1)])
        for label, size in zip(labels, lengths, strict=True)
    ]
    return gather(found, labels, np.uint8)


def pictures(count: int, seed: int) -> Rows:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    # The class is how bright the upper half is.
    found = generator.integers(0, 4, (count, 16)) + 4 * labels[:, None] * (np.arange(16) < 8)
    return gather(list(found), labels, np.uint8)


def passages(count: int, seed: int) -> Rows:
    """Return pairs of texts of any lengths, of one id each; the class tells if both ids are equal."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    found = []
    for label in labels:
        one = generator.integers(2, 5)
        other = one if label else 2 + (one - 1) % 3
        lengths = generator.integers(1, 8, 2)
        found.append(np.concatenate([np.full(lengths[0], one), [8], np.full(lengths[1], other)]))
    return gather(found, labels, np.uint8)


def small(make: Callable[[int, int], Rows] = rows) -> SequenceData:
    train, valid, test = (make(count, seed) for seed, count in enumerate((64, 20, 20)))
    return SequenceData(train, valid, test, 9, ("no", "yes"), (4, 4) if make is pictures else None)


# Peers have widths that are multiples of 64.
@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in PEERS])
def test_every_model_is_a_classifier_of_the_wanted_size(name: str) -> None:
    known = list(MIXERS)
    for config in (SIZES, tiny_vit(image_size=8, patch_size=2)):
        model = build_classifier(name, config, 250_000, seed=1)
        # A removed part of the paper's layer counts, as its parameters are kept without effect.
        removed = bool(models.MODELS[name].without)
        count = sum(p.numel() for p in model.parameters()) if removed else count_parameters(model)
        assert abs(count / 250_000 - 1) < 0.02
        assert (count_parameters(model) < count) == removed
    assert list(MIXERS) == known, "the package does not know the baselines"


@pytest.mark.parametrize("name", ["gru", "min_gru", "gated_linear", "without clock"])
def test_a_baseline_classifies_padded_rows_as_each_alone(name: str) -> None:
    model = build_classifier(name, SIZES, 60_000, seed=0).eval()
    rows = [torch.randint(9, (length,)) for length in (5, 2, 7)]
    tokens_BT, present_BT = (torch.from_numpy(found) for found in padded([row.numpy() for row in rows]))
    alone = torch.cat([model(row[None]) for row in rows])
    torch.testing.assert_close(model(tokens_BT, present_BT), alone)


@pytest.mark.parametrize(
    ("name", "count"), [("spectral", 7), ("without modReLU", 7), ("5 anchors", 5), ("addressed", None)]
)
def test_the_case_sets_the_anchors_unless_the_model_does(name: str, count: int | None) -> None:
    model = build_classifier(name, SIZES, 60_000, seed=0, num_anchors=7)
    found = {m.filter.base_filter.shape[1] for m in model.modules() if isinstance(m, SpectralMixer)}
    assert found == ({count} if count else set())


@pytest.mark.parametrize("part", models.REMOVERS)
def test_a_removed_part_has_no_effect(part: str) -> None:
    model = build_classifier(f"without {part}", SIZES, 60_000, seed=0)
    whole = build_classifier("spectral", SIZES, 60_000, seed=0)
    tokens = torch.randint(9, (2, 7))
    assert not torch.allclose(model(tokens), whole(tokens))
    mixer: Any = model.backbone.layers[0].mixer  # pyright: ignore[reportIndexIssue]
    view = mixer.inspect(torch.randn(2, 7, 16))
    context = mixer.filter(view.context)
    expected = {
        "base filter": torch.tanh(mixer.filter.modulation(view.context)).view(context.shape),
        "modulation": mixer.filter.base_filter.expand_as(context),
        "modReLU": context,
    }[part]
    torch.testing.assert_close(context, expected)
    if part == "modReLU":
        torch.testing.assert_close(view.activated, view.filtered)


@pytest.mark.parametrize("patch_size", [0, 2])
def test_augmented_images_are_shifted_or_mirrored(patch_size: int) -> None:
    data = small(pictures)
    settings = CaseSettings(data="small", patch_size=patch_size, budget=Budget(steps=1))
    reader = Reader(data, settings)
    batch = data.train.batches(32, None).batch(0, 0)
    moved = reader.augmented(batch, 0, 5)
    assert torch.equal(moved.inputs, reader.augmented(batch, 0, 5).inputs)
    assert not torch.equal(moved.inputs, reader.augmented(batch, 0, 6).inputs)
    for before, after in zip(batch.inputs, moved.inputs, strict=True):
        wide = torch.nn.functional.pad(before.view(4, 4), (2,) * 4)
        windows = [wide[y : y + 4, x : x + 4] for y in range(5) for x in range(5)]
        found = [after.view(4, 4), after.view(4, 4).flip(1)]
        assert any(torch.equal(one, two) for one in windows for two in found)


def pair_model() -> PairClassifier:
    torch.manual_seed(0)
    model = build_classifier("spectral", SIZES, 60_000, seed=0, pairs=True)
    assert isinstance(model, PairClassifier)
    return randomise(model).double()


def test_two_texts_are_encoded_alone_and_compared() -> None:
    model = pair_model()
    tokens = torch.randint(8, (5, 15))
    tokens[:, 7] = 8
    model.train()
    logits = model(tokens)
    with torch.no_grad():
        texts = (tokens[:, :7], tokens[:, 8:])
        both = torch.cat([model.backbone(model.embedding(text)).mean(dim=1) for text in texts])
        both = (both - both.mean(dim=0)) / (both.var(dim=0, correction=0) + model.norm.eps).sqrt()
        one, two = both[:5], both[5:]
        expected = model.head(torch.cat([one, two, one * two, one**2 - 2 * one * two + two**2], dim=1))
    torch.testing.assert_close(logits, expected)


def test_pairs_of_any_lengths_are_read_as_each_alone() -> None:
    model = pair_model().eval()
    pairs = [(1, 1), (1, 9), (6, 2), (7, 7), (0, 4), (3, 0)]
    rows = [
        torch.cat([torch.randint(8, (one,)), torch.tensor([8]), torch.randint(8, (two,))])
        for one, two in pairs
    ]
    tokens_BT, present_BT = (torch.from_numpy(found) for found in padded([row.numpy() for row in rows]))
    with torch.no_grad():
        logits = model(tokens_BT, present_BT)
        alone = torch.cat([model(row[None]) for row in rows])
        anything = tokens_BT.masked_fill(~present_BT, 8)
        torch.testing.assert_close(logits, alone)
        torch.testing.assert_close(model(anything, present_BT), alone)


@pytest.mark.parametrize("row", [[1, 2, 3], [1, 8, 2, 8, 3]])
def test_a_row_without_exactly_one_separator_is_refused(row: list[int]) -> None:
    with pytest.raises(ValueError, match=r"row 0 has [02] separators \(id 8\), a pair .* has exactly 1"):
        pair_model()(torch.tensor([row]))


IDS = CaseSettings(data="small", d_model=16, num_layers=2, parameters=60_000, rows=8, budget=Budget(steps=60))


class Small(ClassificationExperiment):
    name = "images"
    title = "Small"
    about = "The class is what stands first."
    sweep = Sweep(learning_rates=(1e-2,), weight_decays=(0.0,), seeds=(0,))
    settings_of = {  # noqa: RUF012
        "ids": IDS,
        "reading": replace(IDS, reading_share=0.2, budget=Budget(steps=120)),
        "patches": replace(IDS, data="small image", patch_size=2),
        "pairs": replace(IDS, data="small pairs", pairs=True, dropout=0.0),
    }


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEQUENCES, "small", lambda cache, sizes: small())
    monkeypatch.setitem(SEQUENCES, "small pairs", lambda cache, sizes: small(passages))
    monkeypatch.setitem(SEQUENCES, "small image", lambda cache, sizes: small(pictures))


@pytest.mark.parametrize(
    ("model", "case"),
    [
        ("addressed", "ids"),
        ("gru", "ids"),
        ("addressed", "reading"),
        ("spectral", "patches"),
        ("spectral", "pairs"),
    ],
)
def test_a_run_learns_and_a_resumed_run_ends_the_same(model: str, case: str, tmp_path: Path) -> None:
    experiment = Small(workbench=Workbench(cache=tmp_path))
    run = experiment.run(model, case, 1e-2, 0.0, 0)
    line = experiment.execute(run)
    assert line["outcome"] == "finished"
    assert line["results"]["test"] >= 0.9
    stopped = Small(workbench=Workbench(cache=tmp_path, deadline=0.0))
    for _ in range(3):
        with pytest.raises(OutOfTime):
            stopped.execute(run)
    resumed = experiment.execute(run)
    assert resumed["results"]["valid"] == line["results"]["valid"]
    assert resumed["results"]["curve"][-1]["loss"] == line["results"]["curve"][-1]["loss"]


@pytest.mark.parametrize("name", ["addressed", "spectral"])
def test_tokens_without_labels_are_part_of_the_loss(name: str) -> None:
    """Compare with a sum over single rows without padding."""
    settings = replace(Small.settings_of["reading"], dropout=0.0)
    reader = Reader(small(), settings)
    sizes = replace(SIZES, vocab_size=10, num_classes=2, class_names=())
    model = build_classifier(name, sizes, 60_000, 0)
    assert isinstance(model, FFTNetForSequenceClassification)
    randomise(model)
    batch = small().train.batches(16, 0).batch(0, 0)
    assert batch.attention_mask is not None
    torch.manual_seed(1)
    loss = reader.loss(model, batch, "fp32")
    torch.manual_seed(1)
    masked_BT = batch.attention_mask & (torch.rand(batch.inputs.shape) < MASKED_FRACTION)
    classes, read = [], []
    for row, mask, masked, target in zip(
        batch.inputs, batch.attention_mask, masked_BT, batch.targets, strict=True
    ):
        ids = row[mask]
        shown = ids if name == "addressed" else ids.masked_fill(masked[mask], 9)
        hidden_TD = model.backbone(model.embedding(shown[None]))[0]
        classes.append(F.cross_entropy(model(shown[None]), target[None]))
        logits_TV = model.embedding(hidden_TD)
        if name == "addressed":
            read += list(F.cross_entropy(logits_TV[:-1], ids[1:], reduction="none"))
        else:
            read += list(F.cross_entropy(logits_TV, ids, reduction="none")[masked[mask]])
    expected = torch.stack(classes).mean() + torch.stack(read).mean()
    torch.testing.assert_close(loss, expected.to(loss.dtype))
    torch.manual_seed(1)
    only_read = reader.loss(model, batch._replace(loss_mask=torch.zeros(16, dtype=torch.bool)), "fp32")
    torch.testing.assert_close(only_read, torch.stack(read).mean().to(loss.dtype))


def test_the_report_has_a_column_for_each_data_set(tmp_path: Path) -> None:
    experiment = Small(workbench=Workbench(cache=tmp_path))
    lines = []
    for name, test in (("attention", 0.25), ("spectral", 0.5)):
        run = experiment.run(name, "ids", 1e-2, 0.0, 0)
        results = {"valid": 0.5, "test": test, "epochs": 2.0, "test_rows": 20, "training_seconds": 60.0}
        results["curve"] = [{"step": 60, "valid": 0.5}]
        rest = {"outcome": "finished", "parameters": 1, "state_numbers": None, "results": results}
        lines.append(vars(run) | rest)
    text = experiment.tables(lines)
    assert text.startswith("**Test accuracy in percent: FFTNet (bidirectional) wins on ids (50.0; attention")
    assert "| attention | 25.0 |" in text
    assert "60,000 parameters" in text
    assert "patches" not in text
    assert list(experiment.pictures(lines)) == ["curves"]


@pytest.mark.parametrize("kind", [Images, LongRangeArena, BriefArena, PaperAblation])
def test_every_case_has_data_and_every_model_can_be_built(kind: type[ClassificationExperiment]) -> None:
    experiment = kind()
    for case, settings in experiment.settings.items():
        assert {settings.data, *(stage.data for stage in settings.stages)} <= set(SEQUENCES), case
        assert settings.budget.steps is not None
        assert sum(stage.steps for stage in settings.stages) < settings.budget.steps
        sizes = replace(
            tiny_vit(image_size=28, patch_size=4) if settings.patch_size else SIZES,
            d_model=settings.d_model,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
        )
        for name in experiment.models:
            assert build_classifier(name, sizes, settings.parameters, 0)


def labelled(label: int, count: int) -> Rows:
    found = [np.full(3, 10 * label + number) for number in range(count)]
    return gather(found, [label] * count, np.uint8)


def test_stages_follow_one_another_and_start_again_when_they_end() -> None:
    curriculum = Curriculum(
        [Part(labelled(0, 4), 3, 2), Part(labelled(1, 3), 2, 3), Part(labelled(2, 4), 0, 2)], seed=0
    )
    batches = [curriculum.batch(step) for step in range(9)]
    assert [batch.targets.tolist() for batch in batches] == [[0, 0]] * 3 + [[1, 1, 1]] * 2 + [[2, 2]] * 4
    for first in (0, 5, 7):
        pair = np.concatenate([batches[step].inputs[:, 0] for step in (first, first + 1)])
        assert len(set(pair.tolist())) == 4, "an epoch has each row once"
    assert [curriculum.epochs(steps) for steps in (3, 5, 7, 8)] == [0, 0, 1, 1.5]


def test_a_setting_at_its_default_is_not_in_the_configuration() -> None:
    """Stored lines stay valid when a setting is added."""
    experiment = LongRangeArena()
    usual = CaseSettings(data="listops", budget=Budget(steps=7))
    experiment.settings["listops"] = usual
    found = experiment.configuration("spectral", "listops")["settings"]
    assert found == {"data": "listops", "budget": asdict(usual.budget)}
    stage = Stage(data="listops40", steps=2, rows=3)
    experiment.settings["listops"] = replace(usual, stages=(stage,), dropout=0.0)
    found = experiment.configuration("spectral", "listops")["settings"]
    assert found["stages"] == [asdict(stage)]
    assert found["dropout"] == 0.0
