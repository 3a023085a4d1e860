"""The base class of all models for Transformers, and the model without a head."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from fftnet.hf.cache import CACHE_NAME, FFTNetCache, Tokens
from fftnet.hf.configuration import ExchangedConfig, FFTNetConfig
from fftnet.model.backbone import Backbone
from fftnet.model.components import TiedEmbedding
from fftnet.model.fftnet_layer import FFTNetLayer
from fftnet.model.pretrained import at_most
from fftnet.serialization import WEIGHTS_FILE, has_weights, stored_numbers


class FFTNetBlock(GradientCheckpointingLayer, FFTNetLayer):
    """Native layer with the library's activation checkpointing."""


class FFTNetPreTrainedModel(PreTrainedModel):
    """Base class of all models: initialization, files, and features of the library."""

    config_class = FFTNetConfig
    config: FFTNetConfig
    base_model_prefix = "model"
    _input_embed_layer = "embedding"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FFTNetBlock"]  # noqa: RUF012 - declared by the library
    _supports_attention_backend = False
    _is_stateful = False

    def __init__(self, config: ExchangedConfig, *inputs: Any, **kwargs: Any) -> None:
        family = config.family
        known = {type(self).__name__, *family.natives, *family.auto_classes.values()}
        names = config.architectures or []
        # A folder of a user's own head would load with new weights, without an error.
        if not known.intersection(names) and names:
            raise ValueError(
                f"config.json is that of {names[0]}, which is not a model of fftnet.hf: load it with that "
                "class"
            )
        super().__init__(config, *inputs, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize a module as the native model does, except for weights that were loaded."""
        reset = getattr(module, "reset_parameters", None)
        if reset is None:
            super()._init_weights(module)
            return
        # Loaded weights are put back after the reset: a mixer initializes one part from another, so its parts
        # can't be reset one by one.
        loaded = [each for each in module.parameters() if getattr(each, "_is_hf_initialized", False)]
        kept = [(each, each.detach().clone()) for each in loaded]
        reset()
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as the library does, unless it is far larger than the file of its weights."""
        path = Path(pretrained_model_name_or_path or "", kwargs.get("subfolder") or "", WEIGHTS_FILE)
        # A name on the hub, or weights in another format: the library reports what is missing.
        if not has_weights(path):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        # The library builds the model on the meta device, then takes memory also for weights that do not fit.
        with at_most(stored_numbers(path), on_meta=True):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Write the folder of a checkpoint, which ``fftnet.FFTNet.from_pretrained`` also reads."""
        result = super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and Path(save_directory).is_dir():
            self.config.family.write_shim(Path(save_directory))
        return result

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing, as ``ExchangedConfig.register_for_auto_class``."""


class FFTNetModel(FFTNetPreTrainedModel):
    """Native embedding and backbone: ids to hidden states."""

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__(config)
        native = config.native()
        self.embedding = TiedEmbedding(native.vocab_size, native.d_model)
        self.backbone = Backbone(native, FFTNetBlock)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: FFTNetCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: FFTNetCache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Return hidden states of T tokens, from exactly one of ids and embeddings.

        Args:
            input_ids: int64 ids (B, T), T >= 1.
            attention_mask: (B, T), 0 at padding, or with a cache (B, tokens read + T).
            past_key_values: name of ``cache`` before Transformers 5.24.
            inputs_embeds: embeddings (B, T, D) instead of ids.
            use_cache: return a cache that has read the tokens (None: as configured, but not in training);
                causal models only.
            output_hidden_states: also return the input of each layer, and the output of the last norm.
            cache: cache of the tokens before, updated in place.
            **kwargs: arguments that the library passes to all models.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        embeddings: Tensor = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        cache = past_key_values if cache is None else cache
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        # Recomputed layers would read their tokens into the cache twice, so no cache is made.
        recomputed = self.gradient_checkpointing and self.training
        if cache is None and use_cache and self.config.causal and not recomputed:
            cache = FFTNetCache(self.config)
        tokens = Tokens(embeddings, _mask_of(embeddings, attention_mask, cache))
        collected: list[Tensor] | None = [] if output_hidden_states else None
        if cache is None:
            hidden = self.backbone(tokens.embeddings, tokens.mask, None, collected)
        else:
            hidden = self._read(tokens, cache, collected)
        kept: dict[str, Any] = {CACHE_NAME: cache if use_cache else None}
        if collected is not None:
            kept["hidden_states"] = tuple(collected)
        return BaseModelOutputWithPast(last_hidden_state=hidden, **kept)

    def _read(self, new: Tokens, cache: FFTNetCache, collected: list[Tensor] | None) -> Tensor:
        if not isinstance(cache, FFTNetCache):
            raise ValueError(
                f"the cache must be an FFTNetCache, got a {type(cache).__name__}: leave it out or take one "
                "that this model returned"
            )
        tokens, before = cache.begin(new)
        if before is None:
            before = self.backbone.init_state(tokens.embeddings.shape[0], tokens.embeddings.device)
        hidden, after = self.backbone(tokens.embeddings, tokens.mask, before, collected)
        cache.finish(tokens, before, after, new.length)
        # Pending tokens were read again; the caller asked only for the new ones.
        again = tokens.length - new.length
        if not again:
            return hidden
        if collected is not None:
            collected[:] = [each[:, again:] for each in collected]
        return hidden[:, again:]


class FFTNetLanguageModel(FFTNetPreTrainedModel):
    """Base class of language models: the native model with the embedding as the head."""

    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}  # noqa: RUF012 - declared by the library

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__(config)
        self.model = FFTNetModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()


def _mask_of(embeddings: Tensor, attention_mask: Tensor | None, cache: FFTNetCache | None) -> Tensor | None:
    """Return the boolean mask (B, T) of the new tokens, None if there is no padding."""
    if attention_mask is None:
        return None
    rows, count = embeddings.shape[:2]
    shape = tuple(attention_mask.shape)
    compiling = torch.compiler.is_compiling()
    # While compiling, values can't be looked at; generate gives masks over the new tokens then.
    seen = 0 if cache is None or compiling else cache.get_seq_length()
    fits = len(shape) == 2 and shape[0] == rows and (shape[1] in (count, seen + count) or compiling)
    if not fits:
        expected = f"({rows}, {count})" if seen == 0 else f"({rows}, {count}) or ({rows}, {seen + count})"
        raise ValueError(f"attention_mask must be of shape {expected}, as the tokens are, got {shape}")
    if cache is not None and shape[1] == seen + count > count and not cache.has_read(attention_mask):
        raise ValueError(
            "the cache has read tokens that attention_mask leaves out, such as the padding after a row that "
            "ended: leave out the cache, so that the text is read again"
        )
    mask = attention_mask[:, shape[1] - count :].to(embeddings.device, torch.bool)
    # Mixers are faster without a mask. A compiled graph can't look at values, so it keeps the mask.
    return None if not compiling and bool(mask.all()) else mask
