"""Configurations for Transformers, with the fields of the native ones."""

from collections.abc import Mapping
from dataclasses import asdict, field, fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from fftnet.fields import string_list
from fftnet.model.config import BackboneConfig
from fftnet.model.config import FFTNetConfig as NativeConfig
from fftnet.model.exchange import IMAGES, LANGUAGE, Family, labels_to_file
from fftnet.model.vit import ViTConfig


class ExchangedConfig(PreTrainedConfig):
    """Base class: the fields of the backbone, and one ``config.json`` for both sides."""

    family: ClassVar[Family]
    native_class: ClassVar[type[Any]]
    # Not max_position_embeddings: evaluation harnesses would cut texts there, but there is no limit.
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "hidden_dropout": "dropout",
    }

    d_model: int = BackboneConfig.d_model
    num_heads: int = BackboneConfig.num_heads
    num_layers: int = BackboneConfig.num_layers
    ffn_dim: int | None = BackboneConfig.ffn_dim
    dropout: float | int = BackboneConfig.dropout
    causal: bool = BackboneConfig.causal
    mixers: list[str] | tuple[str, ...] = ()
    mixer_configs: dict[str, Any] = field(default_factory=dict)
    max_seq_length: int = BackboneConfig.max_seq_length

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        if self.architectures is not None:
            self.architectures = string_list("architectures", self.architectures)
        # The native configuration checks all fields and fills in those of the mixers.
        native = asdict(self.native())
        self.mixers = list(native["mixers"])
        self.mixer_configs = native["mixer_configs"]
        self.auto_map = self.family.auto_map

    def native_values(self) -> dict[str, Any]:
        """Return the native fields."""
        return {each.name: getattr(self, each.name) for each in fields(self.native_class)}

    def native(self) -> Any:
        """Return the native configuration of the same model, which checks the fields."""
        return self.native_class(**self.native_values())

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Return the configuration with the fields of ``config.json``, of this type of model."""
        # Checked here because the library would read any config.json with this class.
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"config.json is that of a model of type {model_type!r}, not {cls.model_type!r}: load it "
                "with AutoModel"
            )
        return super().from_dict(dict(config_dict), **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is written: all native fields, so that new defaults change no model."""
        return super().to_diff_dict() | labels_to_file(self.native_values())

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: ``Family.write_shim`` leads the library to this package, no code is copied."""


class FFTNetConfig(ExchangedConfig):
    """Configuration of all FFTNet models over tokens.

    The fields are those of ``fftnet.FFTNetConfig``, which explains and checks them.
    """

    model_type: ClassVar[str] = LANGUAGE.model_type
    family: ClassVar[Family] = LANGUAGE
    native_class: ClassVar[type[Any]] = NativeConfig
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    # The library needs a default for every field: here the size of the ``bytes`` tokenizer.
    vocab_size: int = 257
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pooling: str | None = None

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what is written, without an unset pooling, which native language models refuse."""
        values = super().to_diff_dict()
        if self.pooling is None:
            values.pop("pooling", None)
        return values

    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class FFTNetViTConfig(ExchangedConfig):
    """Configuration of the image model; the number of classes is that of the labels.

    The fields are those of ``fftnet.model.ViTConfig``, which explains and checks them.
    """

    model_type: ClassVar[str] = IMAGES.model_type
    family: ClassVar[Family] = IMAGES
    native_class: ClassVar[type[Any]] = ViTConfig

    causal: bool = ViTConfig.causal
    image_size: int = ViTConfig.image_size
    patch_size: int = ViTConfig.patch_size
    num_channels: int = ViTConfig.num_channels
    num_classes: int = 1000
    pooling: str = ViTConfig.pooling

    def __post_init__(self, **kwargs: Any) -> None:
        # The library's labels decide the number of classes; num_classes is used if there are none.
        if self.id2label is None:
            kwargs.setdefault("num_labels", self.num_classes)
        super().__post_init__(**kwargs)
        self.num_classes = int(self.num_labels or 0)

    def native_values(self) -> dict[str, Any]:
        """Return the native fields, with one class per label."""
        return super().native_values() | {"num_classes": self.num_labels}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels in order."""
        labels: Any = self.id2label or {}
        return tuple(labels[index] for index in range(len(labels)))
