"""The paper's image model (arXiv 2502.18394v2, section 4.2): patches, the bidirectional backbone, a class."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fftnet.fields import MAX_SIDE, MAX_SIZE, check_range, documented
from fftnet.model.backbone import Backbone
from fftnet.model.checks import given
from fftnet.model.config import BackboneConfig
from fftnet.model.exchange import IMAGE_ARCHITECTURE, IMAGES
from fftnet.model.labels import check_class_names
from fftnet.model.mixers.spectral import SpectralConfig
from fftnet.model.pooling import CLASS_TOKEN, MEAN, pooled
from fftnet.model.pretrained import PretrainedModel

POOLINGS = (CLASS_TOKEN, MEAN)
START = 0.02
"""Standard deviation of positions and class token at the start, as in the ViT."""

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 4, "d_model": 64, "num_heads": 4},
    "small": {"num_layers": 6, "d_model": 192, "num_heads": 6},
    "base": {"num_layers": 12, "d_model": 768, "num_heads": 12},
    "large": {"num_layers": 24, "d_model": 1024, "num_heads": 16},
    "huge": {"num_layers": 32, "d_model": 1280, "num_heads": 16},
}
"""Name to sizes; the last three are the paper's."""


@documented
@dataclass(frozen=True, kw_only=True)
class ViTConfig(BackboneConfig):
    """An image classifier.

    Raises:
        ValueError: if a field is out of range, the patches do not divide the image, or the pooling is
            unknown.
    """

    causal: bool = False
    """Every patch sees only those before it; False sees the whole image."""
    image_size: int = 224
    """Pixels of a side of the square images that it is trained on; it reads other sizes afterwards."""
    patch_size: int = 16
    """Pixels of a side of a patch; must divide image_size."""
    num_channels: int = 3
    """Numbers of a pixel."""
    num_classes: int
    """Classes that are told apart."""
    class_names: tuple[str, ...] = ()
    """Their names in order (empty: LABEL_0, LABEL_1, ...)."""
    pooling: str = CLASS_TOKEN
    """What is classified: class_token, a learned token in front of the patches, or mean, of all patches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, 1, MAX_SIDE, "image_size", "patch_size", "num_channels")
        check_range(self, 1, MAX_SIZE, "num_classes")
        object.__setattr__(self, "class_names", check_class_names(self.class_names, self.num_classes))
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size={self.patch_size} must divide image_size={self.image_size}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"unknown pooling {self.pooling!r}; choose from {', '.join(POOLINGS)}")
        if self.causal and self.pooling == CLASS_TOKEN:
            raise ValueError(
                "in a causal model the class token in front sees no patch: pooling='mean' or causal=False"
            )

    @property
    def grid_size(self) -> int:
        """Patches of a side of a training image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens T of a training image, the class token included."""
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
    """The configuration of a preset, with the filter held at every frequency of its length, as published.

        >>> FFTNetViT(vit_config("base", num_classes=1000)).num_parameters()

    Args:
        preset: a name in ``PRESETS``; for other sizes ``dataclasses.replace`` the fields of what comes back.
        num_classes: as the other arguments a field of ``ViTConfig``.
        image_size: pixels of a side.
        patch_size: pixels of a side of a patch.
        num_channels: numbers of a pixel.
        pooling: class_token or mean.

    Raises:
        ValueError: if there is no such preset, or a field is out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    sizes = PRESETS[preset]
    config = ViTConfig(
        d_model=sizes["d_model"],
        num_heads=sizes["num_heads"],
        num_layers=sizes["num_layers"],
        num_classes=num_classes,
        image_size=image_size,
        patch_size=patch_size,
        num_channels=num_channels,
        pooling=pooling,
    )
    mixer = SpectralConfig(num_anchors=config.num_tokens // 2 + 1)
    return replace(config, mixer_configs={"spectral": mixer})


class Patches(nn.Module):
    """Images to tokens: squares of pixels through a linear layer, learned positions, a class token in front.

    Args:
        config: sizes and pooling.
    """

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
        """Start positions and class token near 0; the linear layer resets itself."""
        nn.init.trunc_normal_(self.position, std=START)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=START)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, T, D) of images (B, C, height, width), any multiples of a patch.

        Positions of another grid than the trained one are interpolated.

        Raises:
            ValueError: on another number of channels, or sides that are no multiple of a patch.
        """
        size = self.patch_size
        fits = isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] == self.num_channels
        if not fits or images.shape[2] % size or images.shape[3] % size or 0 in images.shape:
            raise ValueError(
                f"images must be of shape (batch, {self.num_channels}, height, width), sides multiples of "
                f"{size}, got {given(images)}"
            )
        patches_BTP = F.unfold(images, size, stride=size).transpose(1, 2)
        grid = (images.shape[2] // size, images.shape[3] // size)
        position_1Dhw = self.position
        if grid != (self.grid_size, self.grid_size):
            position_1Dhw = F.interpolate(position_1Dhw, grid, mode="bilinear")
        x_BTD = self.project(patches_BTP) + position_1Dhw.flatten(2).transpose(1, 2)
        if self.class_token is None:
            return x_BTD
        return torch.cat([self.class_token.expand(len(images), -1, -1), x_BTD], dim=1)


class FFTNetViT(PretrainedModel):
    """Images to classes, without attention.

    Args:
        config: sizes, mixers and pooling; ``vit_config`` has the paper's.
    """

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
        """Name of the class of ``fftnet.hf`` that computes the same."""
        return IMAGE_ARCHITECTURE

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, num_channels, height, width), any multiples of a patch.

        Raises:
            ValueError: on images of another shape.
        """
        return self.head(pooled(self.backbone(self.patches(images)), self.config.pooling))
