"""Classification of images by the paper's image model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar

from fftnet.data.images.augmentation import AUGMENTATIONS, Augmentation, rand_augment_of_torchvision
from fftnet.data.images.loading import ImageBatches, ImageData, load_images
from fftnet.fields import MAX_SIDE, check_fields, check_positive, check_range, documented
from fftnet.model.config import BackboneConfig
from fftnet.model.mixers.spectral import SpectralConfig
from fftnet.model.vit import CLASS_TOKEN, POOLINGS, PRESETS, FFTNetViT, ViTConfig
from fftnet.tasks.base import Prepared, Request
from fftnet.tasks.labels import WEIGHTINGS, check_label_smoothing, label_objective
from fftnet.tasks.text import sizes_of
from fftnet.utils.dataset import DataConfig, Splits

TEXT_FIELDS = (
    *("text_field", "tokenizer", "vocab_size", "num_samples", "pattern_complexity"),
    *("reset_at_documents", "carry_state", "cache_dir"),
)
"""Fields of ``DataConfig`` that have no meaning for images."""


@documented
@dataclass(frozen=True, kw_only=True)
class ImageClassificationConfig:
    """Settings of image classification.

    ``--data`` names a folder with a folder of images for each class (or train, valid and test with such
    folders), or an .npz file of images and labels.

    Raises:
        ValueError: if a field is out of range, or a preset or an augmentation is unknown.
    """

    preset: str | None = field(default=None, metadata={"choices": lambda: PRESETS})
    """Sizes by name: tiny, small, or the paper's base, large, huge (None: d_model, num_heads, num_layers)."""
    image_size: int | None = None
    """Side in pixels of the square that all images are stretched to (None: their own size, if all are squares
    of one size)."""
    patch_size: int = 16
    """Side of a patch in pixels; must divide the side of the image."""
    pooling: str = field(default=CLASS_TOKEN, metadata={"choices": lambda: POOLINGS})
    """Vector that is classified: class_token, a learned token in front of the patches, or the mean of all
    patches."""
    label_smoothing: float = 0.0
    """Part of a target that is spread evenly over all classes."""
    class_weights: str = field(default="none", metadata={"choices": lambda: WEIGHTINGS})
    """none, or balanced: rare classes weigh more in the loss, so that all weigh alike."""
    augmentation: tuple[str, ...] = field(default=(), metadata={"choices": lambda: AUGMENTATIONS})
    """Changes of the training images: flip, crop (shifts by up to an eighth), mixup, and rand_augment, which
    needs torchvision."""
    mixup_alpha: float = 0.2
    """Parameter of the beta distribution of mixup weights: the larger, the more is mixed."""
    valid_data: str | None = None
    """Images for validation (None: the split of that name in data, or valid_fraction of each class)."""
    test_data: str | None = None
    """Images for the final test (None: the split of that name in data, or test_fraction of each class)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, 1, MAX_SIDE, "patch_size", "image_size")
        check_label_smoothing(self.label_smoothing)
        for name in self.augmentation:
            if name not in AUGMENTATIONS:
                raise ValueError(f"unknown augmentation {name!r}; choose from {', '.join(AUGMENTATIONS)}")
        check_positive(self, "mixup_alpha")

    def augmentations(self, num_classes: int) -> list[Augmentation]:
        """Return the augmentations in their order; ``MissingPackageError`` if one needs a missing package."""
        if "rand_augment" in self.augmentation:
            rand_augment_of_torchvision()
        bound = AUGMENTATIONS | {
            "mixup": partial(AUGMENTATIONS["mixup"], alpha=self.mixup_alpha, num_classes=num_classes)
        }
        return [change for name, change in bound.items() if name in self.augmentation]


class ImageClassification:
    """Task of one class per image, by ``fftnet.model.FFTNetViT``."""

    Config: ClassVar[type[Any]] = ImageClassificationConfig
    model_defaults: ClassVar[Mapping[str, Any]] = {"causal": False}

    @staticmethod
    def prepare(request: Request) -> Prepared:
        """Read the images and divide them."""
        settings: ImageClassificationConfig = request.settings
        _check_unused(request)
        read = load_images(
            request.data,
            image_size=settings.image_size,
            valid_data=settings.valid_data,
            test_data=settings.test_data,
        )
        config = vit_of(request.model, settings, read)
        classes = config.num_classes
        # A missing package is reported before training.
        augmentations = settings.augmentations(classes)
        size, seed = request.data.batch_size, request.data.data_seed
        return Prepared(
            build_model=lambda: FFTNetViT(config),
            objective=label_objective(settings, read.train.labels.tolist(), classes, "images"),
            splits=Splits(
                train=ImageBatches(read.train, read.processor, size, seed, augmentations),
                valid=ImageBatches(read.valid, read.processor, size),
                test=ImageBatches(read.test, read.processor, size),
                digest=read.digest,
            ),
            tokenizer=None,
            save_files=read.processor.save,
            measure_test=True,
        )


def vit_of(model: BackboneConfig, settings: ImageClassificationConfig, read: ImageData) -> ViTConfig:
    """Return the configuration of the model: sizes of a preset or of the backbone, images and classes."""
    config = ViTConfig(
        **sizes_of(model),
        image_size=read.processor.size,
        patch_size=settings.patch_size,
        num_channels=read.processor.channels,
        num_classes=len(read.train.class_names),
        class_names=read.train.class_names,
        pooling=settings.pooling,
    )
    # Patches decide the length of the sequence.
    config = replace(config, max_seq_length=config.num_tokens)
    if settings.preset is None:
        return config
    sizes = PRESETS[settings.preset]
    defaults = BackboneConfig()
    for name in sizes:
        if getattr(model, name) != getattr(defaults, name):
            raise ValueError(f"{name} is that of preset {settings.preset}: leave out one of the two")
    mixers = dict(config.mixer_configs)
    if mixers.get("spectral") == SpectralConfig():
        # As published: the filter is held at every frequency of its length.
        mixers["spectral"] = SpectralConfig(num_anchors=config.num_tokens // 2 + 1)
    return replace(config, **sizes, mixer_configs=mixers)


def _check_unused(request: Request) -> None:
    """Refuse settings of text, which would change nothing."""
    defaults = {field.name: field.default for field in fields(DataConfig)}
    changed = [name for name in TEXT_FIELDS if getattr(request.data, name) != defaults[name]]
    if request.model.max_seq_length != BackboneConfig().max_seq_length:
        changed.append("max_seq_length")
    if changed:
        raise ValueError(f"{changed[0]} is a setting of text: image_classification has no use for it")
