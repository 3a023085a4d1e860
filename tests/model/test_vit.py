"""The image classifier: the paper's sizes, images of other sizes, learning, files, error messages."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import randomise
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fftnet.model.vit import FFTNetViT, ViTConfig, vit_config

PUBLISHED = {"base": (22.64, 76.33), "large": (79.92, 267.89), "huge": (166.14, 539.96)}
"""Preset to the paper's GFLOPs and millions of parameters, 224 pixels, patches of 16, 1,000 classes."""


@pytest.mark.parametrize("preset", PUBLISHED)
def test_sizes_are_the_published_ones(preset: str) -> None:
    config = vit_config(preset, num_classes=1000)
    with torch.device("meta"):
        model = FFTNetViT(config)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    flops, parameters = PUBLISHED[preset]
    # All Fourier transforms and inverses take 5 N log2 N operations for a complex channel.
    transforms = config.num_layers * config.d_model * 2 * 5 * config.num_tokens * math.log2(config.num_tokens)
    assert model.num_parameters() / 1e6 == pytest.approx(parameters, rel=0.01)
    assert (counter.get_total_flops() + transforms) / 1e9 == pytest.approx(flops, rel=0.01)


def small(**fields: object) -> ViTConfig:
    config = vit_config("tiny", num_classes=2, image_size=8, patch_size=2, num_channels=1)
    return replace(config, num_layers=2, **fields)  # pyright: ignore[reportArgumentType]


def by_hand(model: FFTNetViT, images: Tensor) -> Tensor:
    """Compute the logits patch by patch, row by row."""
    patches = model.patches
    size = patches.patch_size
    tokens = [] if patches.class_token is None else [patches.class_token[:, 0].expand(len(images), -1)]
    for row in range(images.shape[2] // size):
        for column in range(images.shape[3] // size):
            square = images[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size]
            tokens.append(patches.project(square.flatten(1)) + patches.position[:, :, row, column])
    hidden = model.backbone(torch.stack(tokens, dim=1))
    return model.head(hidden[:, 0] if patches.class_token is not None else hidden.mean(dim=1))


@pytest.mark.parametrize("pooling", ["class_token", "mean"])
def test_patches_are_read_row_by_row(pooling: str) -> None:
    model = randomise(FFTNetViT(small(pooling=pooling, num_channels=3)))
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(images), by_hand(model, images), rtol=1e-10, atol=1e-10)


def test_it_reads_images_of_other_sizes() -> None:
    model = randomise(FFTNetViT(small()))
    assert model(torch.randn(2, 1, 12, 4, dtype=torch.float64)).shape == (2, 2)
    # Equal positions stay equal on any grid.
    with torch.no_grad():
        model.patches.position.fill_(0.3)
    tokens = model.patches(torch.zeros(1, 1, 12, 4, dtype=torch.float64))
    torch.testing.assert_close(tokens[:, 1:], tokens[:, 1:2].expand(-1, 12, -1), rtol=0, atol=1e-12)


def test_it_learns_and_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    model = FFTNetViT(small())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    labels = torch.arange(32) % 2
    stripes = torch.sin(torch.arange(8) * 1.5 + torch.rand(32, 1) * 6)
    across, down = (
        stripes[:, None, None, :].expand(-1, 1, 8, 8),
        stripes[:, None, :, None].expand(-1, 1, 8, 8),
    )
    images = torch.where(labels[:, None, None, None] == 1, across, down) + 0.1 * torch.randn(32, 1, 8, 8)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < losses[0]
    model.save_pretrained(tmp_path)
    loaded = FFTNetViT.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(images), model.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 3}, "patch_size=3 must divide image_size=8"),
        ({"pooling": "max"}, "unknown pooling 'max'; choose from class_token, mean"),
        ({"causal": True}, "in a causal model the class token in front sees no patch"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
    ],
)
def test_wrong_sizes_are_refused(fields: dict[str, object], message: str) -> None:
    values = {"image_size": 8, "patch_size": 2, "num_classes": 2} | fields
    with pytest.raises(ValueError, match=message):
        ViTConfig(**values)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 8, 7), (1, 8, 8), (2, 1, 0, 8)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images must be of shape"):
        FFTNetViT(small())(torch.zeros(shape))
    with pytest.raises(ValueError, match="unknown preset 'giant'; choose from tiny, small, base, large"):
        vit_config("giant", num_classes=2)
