"""Image classifier of the paper (arXiv 2502.18394v2, section 4.2): patches, backbone, linear head."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fftnet.fields import MAX_SIDE, check_range, documented
from fftnet.model.backbone import Backbone
from fftnet.model.checks import given
from fftnet.model.config import BackboneConfig
from fftnet.model.exchange import IMAGE_ARCHITECTURE, IMAGES
from fftnet.model.heads import CLASS_TOKEN, MEAN, check_classifier, pooled
from fftnet.model.mixers.spectral import SpectralConfig
from fftnet.model.pretrained import PretrainedModel

POOLINGS = (CLASS_TOKEN, MEAN)
START = 0.02
"""Standard deviation of the initial positions and class token, as in the ViT."""

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"num_layers": 4, "d_model": 64, "num_heads": 4},
    "small": {"num_layers": 6, "d_model": 192, "num_heads": 6},
    "base": {"num_layers": 12, "d_model": 768, "num_heads": 12},
    "large": {"num_layers": 24, "d_model": 1024, "num_heads": 16},
    "huge": {"num_layers": 32, "d_model": 1280, "num_heads": 16},
}
"""Sizes by name of the preset; the last three are the paper's."""


@documented
@dataclass(frozen=True, kw_only=True)
class ViTConfig(BackboneConfig):
    """Configuration of an image classifier; a field that does not fit the others is a ValueError."""

    causal: bool = False
    """Every patch sees only the patches before it (False: the whole image)."""
    image_size: int = 224
    """Side of the square training images, in pixels; a trained model reads other sizes too."""
    patch_size: int = 16
    """Side of a patch, in pixels; must divide image_size."""
    num_channels: int = 3
    """Channels of a pixel."""
    num_classes: int
    """Number of classes K."""
    class_names: tuple[str, ...] = ()
    """Class names in order (empty: LABEL_0, LABEL_1, ...)."""
    pooling: str = CLASS_TOKEN
    """Vector that is classified: class_token (a learned token in front of the patches) or mean (of all
    patches)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, MAX_SIDE, "image_size", "patch_size", "num_channels")
        check_classifier(self, POOLINGS)
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} must divide image_size={self.image_size}")
        if self.causal and self.pooling == CLASS_TOKEN:
            raise ValueError(
                "in a causal model the class token in front sees no patch: pooling='mean' or causal=False"
            )

    @property
    def grid_size(self) -> int:
        """Number of patches along a side of a training image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Number of tokens T of a training image, including the class token."""
        return self.grid_size**2 + (self.pooling == CLASS_TOKEN)


def vit_config(
    preset: str,
    *,
    num_classes: int,
    image_size: int = 224,
    patch_size: int = 16,
    num_channels: int = 3,
    pooling: str = CLASS_TOKEN,
) -> ViTConfig:
    """Return the configuration of a preset; as published, the filter has one value for every frequency.

        >>> FFTNetViT(vit_config("base", num_classes=1000)).num_parameters()

    ``preset`` is a name in ``PRESETS``, all other arguments are fields of ``ViTConfig``. Use
    ``dataclasses.replace`` on the result for other sizes.

    Raises:
        ValueError: if the preset is unknown or a field is out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    config = ViTConfig(
        **PRESETS[preset],
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
        num_channels=num_channels,
        pooling=pooling,
    )
    # One anchor per bin: the filter of the published model is not interpolated.
    mixer = SpectralConfig(num_anchors=config.num_tokens // 2 + 1)
    return replace(config, mixer_configs={"spectral": mixer})


class Patches(nn.Module):
    """Patch embedding: linear projection of patches, learned positions, optional class token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.num_channels = config.num_channels
        self.grid_size = config.grid_size
        self.project = nn.Linear(config.num_channels * config.patch_size**2, config.d_model)
        self.position = nn.Parameter(torch.empty(1, config.d_model, config.grid_size, config.grid_size))
        self.class_token = None
        if config.pooling == CLASS_TOKEN:
            self.class_token = nn.Parameter(torch.empty(1, 1, config.d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize positions and class token near 0; the linear layer resets itself."""
        nn.init.trunc_normal_(self.position, std=START)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=START)

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens (B, T, D) of images (B, C, height, width), sides multiples of ``patch_size``."""
        size = self.patch_size
        fits = isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == self.num_channels
        if not fits or images.shape[2] % size or images.shape[3] % size or 0 in images.shape:
            raise ValueError(
                f"images must be of shape (batch, {self.num_channels}, height, width), sides multiples of "
                f"{size}, got {given(images)}"
            )
        # Row by row: token t = row * columns + column, each token the C * size * size numbers of a patch.
        patches_BTP = F.unfold(images, size, stride=size).transpose(1, 2)
        grid = (images.shape[2] // size, images.shape[3] // size)
        position_1Dhw = self.position
        if grid != (self.grid_size, self.grid_size):
            # Images of another size: the trained grid of positions is resampled.
            position_1Dhw = F.interpolate(position_1Dhw, grid, mode="bilinear")
        x_BTD = self.project(patches_BTP) + position_1Dhw.flatten(2).transpose(1, 2)
        # The class token comes first and has no position: there is one only.
        if self.class_token is None:
            return x_BTD
        return torch.cat([self.class_token.expand(len(images), -1, -1), x_BTD], dim=1)


class FFTNetViT(PretrainedModel):
    """Image classifier without attention; ``vit_config`` returns the paper's configurations."""

    config_class = ViTConfig
    config: ViTConfig
    family = IMAGES
    other_names = IMAGES.natives
    head_prefixes = ("head.",)

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.patches = Patches(config)
        self.backbone = Backbone(config)
        self.head = nn.Linear(config.d_model, config.num_classes)

    @property
    def architecture(self) -> str:
        """Name of the equivalent class of ``fftnet.hf``."""
        return IMAGE_ARCHITECTURE

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes) of images (B, num_channels, height, width)."""
        return self.head(pooled(self.backbone(self.patches(images)), self.config.pooling))
