"""The language model with the library's ``generate``."""

from typing import Any

from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from fftnet.hf.cache import CACHE_NAME, FFTNetCache
from fftnet.hf.configuration import FFTNetConfig
from fftnet.hf.modeling import FFTNetLanguageModel


class FFTNetForCausalLM(FFTNetLanguageModel, GenerationMixin):
    """``fftnet.FFTNet`` with a causal configuration: ids to logits of the next token."""

    def __init__(self, config: FFTNetConfig) -> None:
        if not config.causal:
            raise ValueError("a bidirectional model can't write: take FFTNetForMaskedLM, or causal=True")
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: FFTNetCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: FFTNetCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits (B, T, V) of the next token, and with labels the loss.

        Other arguments are those of ``FFTNetModel.forward``; ``num_items_in_batch`` divides the summed loss.

        Args:
            labels: int64 ids (B, T), -100 at positions without loss; they are shifted here.
            logits_to_keep: number of last positions whose logits are returned (0: all), or their indices.
        """
        read = self.model(
            input_ids,
            attention_mask,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_hidden_states,
            cache,
            return_dict=True,
        )
        # slice(-0, None) is everything, as the library means by 0.
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(read.last_hidden_state[:, kept])
        size = self.config.vocab_size
        loss = None if labels is None else self.loss_function(logits, labels, size, **kwargs)
        kept_cache = {CACHE_NAME: read.get(CACHE_NAME)}
        return CausalLMOutputWithPast(loss, logits, hidden_states=read.hidden_states, **kept_cache)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the library's inputs, with the mask cut to the new tokens.

        A mask whose length grows would let torch.compile compile a step again and again. After the first
        step there is no mask: a token that was just generated is never padding.
        """
        # A decorator of the library hides the return type.
        library: Any = super()
        inputs: dict[str, Any] = library.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        mask = inputs.get("attention_mask")
        if mask is None or inputs.get(CACHE_NAME) is None or mask.ndim != 2:
            return inputs
        given = inputs.get("input_ids")
        count = (inputs["inputs_embeds"] if given is None else given).shape[1]
        generated = count == 1 and not kwargs.get("is_first_iteration", False)
        inputs["attention_mask"] = None if generated else mask[:, -count:]
        return inputs

    @staticmethod
    def create_masks_for_generate(attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        """Return the mask unchanged: there is no attention matrix."""
        return attention_mask

    def _prepare_cache_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        cache = model_kwargs.get(CACHE_NAME)
        if cache is not None:
            # Tells the library that the caller still holds this cache, so it must be right after generation.
            cache._is_user_defined = True
            mask = model_kwargs.get("attention_mask")
            if mask is not None and isinstance(cache, FFTNetCache) and not cache.has_read(mask):
                # A row ended early in the turn before, so its state has read padding: read everything again.
                cache.reset()
            return
        if generation_config.use_cache is False:
            return
        cache = FFTNetCache(self.config, static=generation_config.cache_implementation == "static")
        if generation_config.is_assistant:
            # An assistant proposes tokens that the main model may refuse: they are taken back with crop.
            cache.activate_past_recording()
        model_kwargs[CACHE_NAME] = cache
