"""The configuration: the fields of the native one, beside those that Transformers knows."""

from collections.abc import Mapping
from dataclasses import asdict, field, fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from fftnet.model.config import FFTNetConfig as NativeConfig
from fftnet.model.exchange import AUTO_MAP, MODEL_TYPE

NATIVE_FIELDS = {each.name: each for each in fields(NativeConfig)}
BYTES_VOCAB_SIZE = 257
"""Of the ``bytes`` tokenizer: the library wants a default of every field."""


def _default(name: str) -> Any:
    return NATIVE_FIELDS[name].default


class FFTNetConfig(PreTrainedConfig):
    """Configuration of all FFTNet models in Transformers; ``config.json`` is one for both sides.

    The fields are those of ``fftnet.FFTNetConfig``, which explains and checks them.

    Raises:
        ValueError: if a field is out of range, a mixer is unknown, or ``config.json`` is that of another
            model.
    """

    model_type: ClassVar[str] = MODEL_TYPE
    # Not max_position_embeddings: harnesses would cut texts at the training window, which is no limit here.
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "hidden_dropout": "dropout",
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "cache"]

    vocab_size: int = BYTES_VOCAB_SIZE
    d_model: int = _default("d_model")
    num_heads: int = _default("num_heads")
    num_layers: int = _default("num_layers")
    ffn_dim: int | None = _default("ffn_dim")
    dropout: float | int = _default("dropout")
    causal: bool = _default("causal")
    mixers: list[str] | tuple[str, ...] = ()
    mixer_configs: dict[str, Any] = field(default_factory=dict)
    max_seq_length: int = _default("max_seq_length")
    use_cache: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)
        native = asdict(self.native())
        self.mixers = list(native["mixers"])
        self.mixer_configs = native["mixer_configs"]
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    def native(self) -> NativeConfig:
        """The native configuration of the same model.

        Raises:
            ValueError: if a field is out of range, or a mixer is unknown.
        """
        return NativeConfig(**{name: getattr(self, name) for name in NATIVE_FIELDS})

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """A configuration of the fields in ``config.json``.

        Raises:
            ValueError: if they are those of another model.
        """
        model_type = config_dict.get("model_type", MODEL_TYPE)
        if model_type != MODEL_TYPE:
            raise ValueError(
                f"config.json is that of a model of type {model_type!r}, not {MODEL_TYPE!r}: load it with "
                "AutoModel"
            )
        return super().from_dict(dict(config_dict), **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written: all native fields, so that later defaults change no model; else what differs."""
        return super().to_diff_dict() | {name: getattr(self, name) for name in NATIVE_FIELDS}

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: a folder leads to this package by a file of its own, into which no code is copied."""
