"""Models with other heads: masked tokens, classes of texts, tokens and images."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GenericForTokenClassification
from transformers.modeling_outputs import (
    ImageClassifierOutput,
    MaskedLMOutput,
    SequenceClassifierOutputWithPast,
)
from transformers.utils.generic import can_return_tuple

from fftnet.hf.cache import CACHE_NAME
from fftnet.hf.configuration import FFTNetConfig, FFTNetViTConfig
from fftnet.hf.modeling import FFTNetBlock, FFTNetLanguageModel, FFTNetModel, FFTNetPreTrainedModel
from fftnet.model.backbone import Backbone
from fftnet.model.heads import MEAN, pooled
from fftnet.model.vit import Patches


class FFTNetForMaskedLM(FFTNetLanguageModel):
    """``fftnet.FFTNet`` with a bidirectional configuration: ids to logits of the tokens themselves."""

    def __init__(self, config: FFTNetConfig) -> None:
        if config.causal:
            raise ValueError("a causal model sees no later token: take FFTNetForCausalLM, or causal=False")
        super().__init__(config)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Return logits (B, T, V), and with labels (B, T), -100 at positions without loss, the loss."""
        read = self.model(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(read.last_hidden_state)
        size = self.config.vocab_size
        loss = None if labels is None else self.loss_function(logits, labels, size, **kwargs)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)


class FFTNetForSequenceClassification(FFTNetPreTrainedModel):
    """``fftnet.model.FFTNetForSequenceClassification``: a class of each text, or a number (``num_labels=1``).

    The configuration's ``pooling`` is mean (the default) or last. Without a mask, the configuration's
    ``pad_token_id`` at the ends of a row is padding.
    """

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 0)
        # Configurations of language models have no pooling; a head on one takes the mean.
        self.pooling = config.pooling or MEAN
        self.model = FFTNetModel(config)
        self.score = nn.Linear(config.d_model, self.num_labels, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Return logits (B, num_labels), and with labels, (B,) or (B, num_labels), the loss."""
        # Pooling needs to know padding, even if the caller gives no mask.
        mask = attention_mask
        if mask is None and input_ids is not None and self.config.pad_token_id is not None:
            mask = _without_ends(input_ids, self.config.pad_token_id)
        read = self.model(input_ids, mask, inputs_embeds=inputs_embeds, return_dict=True, **kwargs)
        logits = self.score(pooled(read.last_hidden_state, self.pooling, mask))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=logits, config=self.config, **kwargs
            )
        kept_cache = {CACHE_NAME: read.get(CACHE_NAME)}
        return SequenceClassifierOutputWithPast(loss, logits, hidden_states=read.hidden_states, **kept_cache)


class FFTNetForTokenClassification(GenericForTokenClassification, FFTNetPreTrainedModel):
    """A class of every token: the library's head on the native backbone."""


class FFTNetForImageClassification(FFTNetPreTrainedModel):
    """``fftnet.model.FFTNetViT``: image classifier."""

    config_class = FFTNetViTConfig
    config: FFTNetViTConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    main_input_name = "pixel_values"

    def __init__(self, config: FFTNetViTConfig) -> None:
        super().__init__(config)
        native = config.native()
        self.num_labels = native.num_classes
        self.patches = Patches(native)
        self.backbone = Backbone(native, FFTNetBlock)
        self.head = nn.Linear(native.d_model, native.num_classes)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Return logits (B, num_labels) of images, and with labels the loss.

        Args:
            pixel_values: (B, num_channels, height, width), sides multiples of ``patch_size``.
            labels: (B,) or, for several classes per image, (B, num_labels).
            output_hidden_states: also return the input of each layer, and the output of the last norm.
            **kwargs: arguments that the library passes to all models.
        """
        if pixel_values is None:
            raise ValueError("pixel_values are missing: pass images (batch, channels, height, width)")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        collected: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self.backbone(self.patches(pixel_values), None, None, collected)
        logits = self.head(pooled(hidden, self.config.pooling))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        states = None if collected is None else tuple(collected)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=states)


def _without_ends(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Return a mask (B, T) that is False at padding before and after a text, but not inside it."""
    real = input_ids != pad_token_id
    started = real.cumsum(dim=1) > 0
    continues = real.flip(1).cumsum(dim=1).flip(1) > 0
    # A padding id inside a text stays a token of it: only the ends are cut.
    within = started & continues
    # A row of padding only is read as it is: the class of an empty text is not defined.
    return within | ~within.any(dim=1, keepdim=True)
