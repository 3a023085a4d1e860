"""The experiments on classification: batches, arms of equal size, a whole run that learns, resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import randomise
from torch.nn import functional as F

from experiments import encoders
from experiments.ablation_paper import PaperAblation
from experiments.arms import count_parameters
from experiments.base import Sweep, Workbench
from experiments.cases import CaseSettings
from experiments.classification import ClassificationExperiment
from experiments.errors import ExperimentError
from experiments.images import Images
from experiments.lra import LongRangeArena
from experiments.pairs import PairClassifier
from experiments.reader import Reader
from experiments.sequences import SEQUENCES
from experiments.sequences.base import Rows, SequenceData, gather
from experiments.training import Budget, OutOfTime
from fftnet.data.windows import padded
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.heads import LAST, MEAN
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
    """Two texts of any lengths, of one id each; the class is whether it is the same."""
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


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_arms_have_equal_parameters(name: str) -> None:
    parts = encoders.ENCODERS[name].without
    for config in (SIZES, tiny_vit(image_size=8, patch_size=2)):
        model = encoders.build(name, config, 250_000, seed=1)
        count = sum(parameter.numel() for parameter in model.parameters())
        assert abs(count / 250_000 - 1) < 0.02
        assert (count_parameters(model) < count) == bool(parts)


@pytest.mark.parametrize(
    ("name", "count"), [("spectral", 7), ("without modReLU", 7), ("5 anchors", 5), ("addressed", None)]
)
def test_the_case_says_how_many_anchors_unless_the_arm_does(name: str, count: int | None) -> None:
    model = encoders.build(name, SIZES, 60_000, seed=0, num_anchors=7)
    found = {m.filter.base_filter.shape[1] for m in model.modules() if isinstance(m, SpectralMixer)}
    assert found == ({count} if count else set())


@pytest.mark.parametrize("part", encoders.PARTS)
def test_what_is_taken_out_changes_nothing(part: str) -> None:
    model = encoders.build(f"without {part}", SIZES, 60_000, seed=0)
    whole = encoders.build("spectral", SIZES, 60_000, seed=0)
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
def test_moved_images_are_the_image_somewhere_else(patch_size: int) -> None:
    data = small(pictures)
    settings = CaseSettings(data="small", patch_size=patch_size, budget=Budget(steps=1))
    reader = Reader(data, settings)
    batch = data.train.batches(32, None).batch(0, 0)
    moved = reader.moved(batch, 0, 5)
    assert torch.equal(moved.inputs, reader.moved(batch, 0, 5).inputs)
    assert not torch.equal(moved.inputs, reader.moved(batch, 0, 6).inputs)
    for before, after in zip(batch.inputs, moved.inputs, strict=True):
        wide = torch.nn.functional.pad(before.view(4, 4), (2,) * 4)
        windows = [wide[y : y + 4, x : x + 4] for y in range(5) for x in range(5)]
        found = [after.view(4, 4), after.view(4, 4).flip(1)]
        assert any(torch.equal(one, two) for one in windows for two in found)


def pair_model() -> PairClassifier:
    torch.manual_seed(0)
    model = encoders.build("spectral", SIZES, 60_000, seed=0, pairs=True)
    assert isinstance(model, PairClassifier)
    return randomise(model).double()


def test_two_texts_are_encoded_alone_and_compared() -> None:
    model = pair_model()
    tokens = torch.randint(8, (5, 15))
    tokens[:, 7] = 8
    model.train()
    logits = model(tokens)
    with torch.no_grad():
        found = []
        for text in (tokens[:, :7], tokens[:, 8:]):
            found.append(model.backbone(model.embedding(text)).mean(dim=1))
        both = torch.cat(found)
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
def test_what_is_no_pair_is_refused(row: list[int]) -> None:
    with pytest.raises(ValueError, match="row 0 is no pair: two texts with one 8 between them"):
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
    ("arm", "case"),
    [
        ("addressed", "ids"),
        ("attention", "ids"),
        ("addressed", "reading"),
        ("spectral", "patches"),
        ("spectral", "pairs"),
    ],
)
def test_a_run_learns_and_a_resumed_one_ends_the_same(arm: str, case: str, tmp_path: Path) -> None:
    experiment = Small(workbench=Workbench(cache=tmp_path))
    run = experiment.run(arm, case, 1e-2, 0.0, 0)
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


@pytest.mark.parametrize(("case", "pooling"), [("ids", MEAN), ("ids", LAST), ("patches", MEAN)])
def test_models_pool_as_their_case_says(
    case: str, pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    build = encoders.build

    def noted(*choices: Any) -> Any:
        built.append(build(*choices))
        return built[-1]

    monkeypatch.setattr(encoders, "build", noted)
    experiment = Small(workbench=Workbench(cache=tmp_path))
    one_step = Budget(steps=1, points=1)
    experiment.settings[case] = replace(experiment.settings[case], pooling=pooling, budget=one_step)
    experiment.execute(experiment.run("attention", case, 1e-2, 0.0, 0))
    assert [model.config.pooling for model in built] == [pooling]


@pytest.mark.parametrize("arm", ["addressed", "spectral"])
def test_reading_is_part_of_the_loss(arm: str) -> None:
    """Against one row after another, without padding."""
    settings = replace(Small.settings_of["reading"], dropout=0.0)
    reader = Reader(small(), settings)
    sizes = replace(SIZES, vocab_size=10, num_classes=2, class_names=())
    model = encoders.build(arm, sizes, 60_000, 0)
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
        shown = ids if arm == "addressed" else ids.masked_fill(masked[mask], 9)
        hidden_TD = model.backbone(model.embedding(shown[None]))[0]
        classes.append(F.cross_entropy(model(shown[None]), target[None]))
        logits_TV = model.embedding(hidden_TD)
        if arm == "addressed":
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
    for arm in ("attention", "spectral"):
        run = experiment.run(arm, "ids", 1e-2, 0.0, 0)
        results = {"valid": 0.5, "test": 0.25, "epochs": 2.0, "test_rows": 20, "training_seconds": 60.0}
        results["curve"] = [{"step": 60, "valid": 0.5}]
        facts = {"outcome": "finished", "parameters": 1, "state_numbers": None, "results": results}
        lines.append(vars(run) | facts)
    text = experiment.tables(lines)
    assert "| attention | 25.0 |" in text
    assert "60,000 parameters" in text
    assert "patches" not in text
    assert list(experiment.pictures(lines)) == ["curves"]


@pytest.mark.parametrize("kind", [Images, LongRangeArena, PaperAblation])
def test_every_case_has_data_and_every_arm_can_be_built(kind: type[ClassificationExperiment]) -> None:
    experiment = kind()
    for case, settings in experiment.settings.items():
        assert {settings.data, *(stage.data for stage in settings.stages)} <= set(SEQUENCES), case
        image = tiny_vit(image_size=28, patch_size=4)
        sizes = replace(
            image if settings.patch_size else SIZES,
            d_model=settings.d_model,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
        )
        for arm in experiment.arms:
            assert encoders.build(arm, sizes, settings.parameters, 0)


def test_an_arm_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ExperimentError, match="there is no arm 'gru'"):
        Images(only=["gru"])
    with pytest.raises(ExperimentError, match="can't have 10 parameters"):
        encoders.build("spectral", SIZES, 10, 0)
