"""Models that answer about a text: masked tokens, a class of the whole, a class of every token."""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GenericForTokenClassification
from transformers.modeling_outputs import MaskedLMOutput, SequenceClassifierOutputWithPast
from transformers.utils.generic import can_return_tuple

from fftnet.hf.cache import CACHE_NAME, FFTNetCache
from fftnet.hf.configuration import FFTNetConfig
from fftnet.hf.modeling import FFTNetModel, FFTNetPreTrainedModel
from fftnet.model.heads import MEAN, pooled


class FFTNetForMaskedLM(FFTNetPreTrainedModel):
    """``fftnet.FFTNet`` of a bidirectional configuration: ids to logits of the tokens themselves.

    Args:
        config: sizes and mixers, with ``causal=False``.

    Raises:
        ValueError: if the configuration is causal.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}  # noqa: RUF012 - declared by the library

    def __init__(self, config: FFTNetConfig) -> None:
        if config.causal:
            raise ValueError("a causal model sees no later token: take FFTNetForCausalLM, or causal=False")
        super().__init__(config)
        self.model = FFTNetModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

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
        """Logits (B, T, V), and with labels (B, T), -100 where none counts, the loss."""
        read = self.model(
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(read.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)


class FFTNetForSequenceClassification(FFTNetPreTrainedModel):
    """A class of each text, or a number (``num_labels=1``).

    The native model is ``fftnet.model.FFTNetForSequenceClassification``. The configuration's ``pooling`` says
    what is classified: mean, also where there is none, or last. Padding is what the mask says, and
    without a mask the configuration's ``pad_token_id`` at the ends.

    Args:
        config: sizes, form, mixers and labels.
    """

    def __init__(self, config: FFTNetConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 0)
        self.pooling = config.pooling or MEAN
        self.model = FFTNetModel(config)
        self.score = nn.Linear(config.d_model, self.num_labels, bias=False)
        self.post_init()

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
        cache: FFTNetCache | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Scores (B, num_labels), and with labels the loss.

        Labels are (B,) or, of several classes at once, (B, num_labels). All else is as in
        ``FFTNetModel.forward``.
        """
        mask = attention_mask
        if mask is None and input_ids is not None and self.config.pad_token_id is not None:
            mask = _without_ends(input_ids, self.config.pad_token_id)
        read = self.model(
            input_ids,
            mask,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_hidden_states,
            cache,
            return_dict=True,
        )
        hidden = read.last_hidden_state
        logits = self.score(pooled(hidden, self.pooling, mask))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=logits, config=self.config, **kwargs
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=read.hidden_states,
            **{CACHE_NAME: read.get(CACHE_NAME)},
        )


class FFTNetForTokenClassification(GenericForTokenClassification, FFTNetPreTrainedModel):
    """A class of every token: the library's head over the native backbone.

    Args:
        config: sizes, form, mixers and labels.
    """


def _without_ends(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """A mask (B, T) that is False at padding before and behind a text, and nowhere in it."""
    real = input_ids != pad_token_id
    started = real.cumsum(dim=1) > 0
    goes_on = real.flip(1).cumsum(dim=1).flip(1) > 0
    within = started & goes_on
    # Of a row of nothing but padding all is read: there is no other answer to give.
    return within | ~within.any(dim=1, keepdim=True)
