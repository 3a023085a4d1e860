"""The cache of Transformers, which holds native states.

A state never changes, so a reference keeps an earlier one. To take tokens back, as assisted decoding needs,
the cache returns to the state before the call that read them. Tokens of that call that stay are read again,
together with the next ones.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import cache_utils, modeling_outputs

from fftnet.model.config import BackboneConfig
from fftnet.model.mixers import mixer_class
from fftnet.model.state import State, num_rows, select_state

CACHE_NAME = "cache" if hasattr(modeling_outputs.CausalLMOutputWithPast, "cache") else "past_key_values"
"""Name of the cache in arguments and outputs of the library, which 5.24 changed."""


class Tokens(NamedTuple):
    """Embedded tokens with their mask."""

    embeddings: Tensor
    """(B, T, D)"""
    mask: Tensor | None
    """Boolean (B, T), False at padding; None: no padding."""

    @property
    def length(self) -> int:
        """Number of positions T."""
        return self.embeddings.shape[1]

    def first(self, count: int) -> "Tokens":
        """Return the first ``count`` tokens."""
        return Tokens(self.embeddings[:, :count], None if self.mask is None else self.mask[:, :count])

    def before(self, later: "Tokens") -> "Tokens":
        """Return these tokens followed by ``later``."""
        # Pending tokens may come from a call in another dtype, for example outside of autocast.
        embeddings = torch.cat([self.embeddings, later.embeddings.to(self.embeddings)], dim=1)
        # Without padding there is no mask, so that the backbone takes its faster path.
        if self.mask is None and later.mask is None:
            return Tokens(embeddings, None)
        return Tokens(embeddings, torch.cat([self.full_mask(), later.full_mask()], dim=1))

    def select(self, rows: Tensor) -> "Tokens":
        """Return the given rows."""
        rows = rows.to(self.embeddings.device)
        mask = None if self.mask is None else self.mask.index_select(0, rows)
        return Tokens(self.embeddings.index_select(0, rows), mask)

    def full_mask(self) -> Tensor:
        """Return the mask (B, T), all True if there is no padding."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.embeddings.shape[:2], dtype=torch.bool, device=self.embeddings.device)


class Call(NamedTuple):
    """Call of the model that can be taken back."""

    before: State
    """State before the call."""
    tokens: Tokens


class FFTNetCacheLayer(cache_utils.CacheLayerMixin):
    """Description of a layer for the library, compileable if its state has a fixed size."""

    is_croppable = True

    def __init__(self, is_compileable: bool = False) -> None:
        super().__init__()
        self.is_compileable = is_compileable

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Refuse: there are no keys and values."""
        raise NotImplementedError("a layer of FFTNet has a state, no keys and values: hand it to the model")

    update = lazy_initialization

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the sizes of a mask over the new tokens only: earlier ones are in the state."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Refuse: tokens are counted by the cache."""
        raise NotImplementedError("the cache counts tokens, not its layers: ask cache.get_seq_length()")

    def get_max_length(self) -> int:
        """Return -1: no limit."""
        return -1


class FFTNetCache(cache_utils.Cache):
    """Tokens read by a causal model, for ``generate`` and ``forward``.

        >>> first = model.generate(ids, return_dict_in_generate=True, max_new_tokens=20)
        >>> later = torch.cat([first.sequences, more], dim=1)
        >>> model.generate(later, cache=first.cache.copy())  # past_key_values before Transformers 5.24

    Args:
        config: configuration of the model, native or of ``fftnet.hf``.
        state: native state to continue from; None starts a text.
        seen: number of tokens that the state has read, including padding.
        static: let ``generate`` compile the step, if no state of a layer grows.
    """

    def __init__(
        self, config: Any, state: State | None = None, *, seen: int = 0, static: bool = False
    ) -> None:
        native = config if isinstance(config, BackboneConfig) else config.native()
        # A state that grows has another shape at every step, which a compiled graph can't take.
        fixed = not any(mixer_class(name).grows for name in native.mixer_pattern)
        layers: list[Any] = [FFTNetCacheLayer(static and fixed) for _ in native.layer_mixers]
        super().__init__(layers=layers)
        # A tensor: for a Python number, a compiled step would be compiled again at every token.
        self._seen = torch.tensor(seen, dtype=torch.int64)
        self._state = state
        self._pending: Tokens | None = None
        self._calls: list[Call] | None = None

    @property
    def state(self) -> State | None:
        """Native state for ``FFTNet.step`` and the functions of ``fftnet.model``; None before a text.

        It is a ValueError if tokens were taken back and the model has not been called since.
        """
        if self._pending is not None:
            raise ValueError("tokens of this cache were taken back: call the model once to get its state")
        return self._state

    @property
    def batch_size(self) -> int:
        """Number of rows B, -1 before a text."""
        return -1 if self._state is None else num_rows(self._state)

    @property
    def is_initialized(self) -> bool:
        """True after the first call."""
        return self._state is not None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read, including padding."""
        return int(self._seen)

    def has_read(self, attention_mask: Tensor) -> bool:
        """Return True if the cache has read the tokens of a mask (B, seen or more), and no padding.

        ``generate`` fills up a row that ends early with padding, which the model reads, and a state can't
        forget it. Only numbers of tokens are compared.
        """
        # Mixers count the tokens that they have read; padding is not among them.
        count_B = None if self._state is None else getattr(self._state[0], "count", None)
        if count_B is None:
            return True
        if self._pending is not None:
            count_B = count_B + self._pending.full_mask().sum(dim=1).to(count_B.device)
        kept_B = attention_mask[:, : self.get_seq_length()].bool().sum(dim=1)
        return torch.equal(kept_B.cpu(), count_B.cpu())

    def begin(self, tokens: Tokens) -> tuple[Tokens, State | None]:
        """Return the tokens to read now (pending ones, then the new ones) and the state before them."""
        rows = tokens.embeddings.shape[0]
        if self.batch_size not in (-1, rows):
            raise ValueError(
                f"the cache has {self.batch_size} rows, the tokens {rows}: cache.batch_repeat_interleave "
                "copies rows, cache.batch_select_indices picks them"
            )
        return tokens if self._pending is None else self._pending.before(tokens), self._state

    def finish(self, tokens: Tokens, before: State, after: State, new: int) -> None:
        """Store the state after a call on the tokens of ``begin``, of which ``new`` were not pending."""
        if self._calls is not None:
            # References only: states never change, so keeping one is free.
            self._calls.append(Call(before, tokens))
        self._pending = None
        self._seen = self._seen.to(tokens.embeddings.device) + new
        self._state = after

    def activate_past_recording(self) -> None:
        """Record all calls from now on, so that ``crop`` can take them back."""
        if self._calls is None:
            self._calls = []

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens back, as 0 or a negative number, and drop the record."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes 0 or a negative number of tokens, got {tokens_to_remove}")
        calls = self._calls or []
        recorded = sum(part.length for part in [self._pending, *(call.tokens for call in calls)] if part)
        remaining = -tokens_to_remove
        if remaining > recorded:
            raise ValueError(
                f"the cache can take back {recorded} tokens, not {remaining}: call "
                "activate_past_recording before the model reads what is to be taken back"
            )
        # Not in place: a copy of the cache may share the tensor.
        self._seen = self._seen - remaining
        while remaining:
            # A call is undone as a whole; those of its tokens that stay become pending.
            if self._pending is None:
                self._state, self._pending = calls.pop()
            kept = max(self._pending.length - remaining, 0)
            remaining -= self._pending.length - kept
            self._pending = self._pending.first(kept) if kept else None
        if self._calls is not None:
            self._calls = []

    def copy(self) -> "FFTNetCache":
        """Return an independent cache of the same text, without copying tensors: states are shared."""
        # States are never changed, so a shallow copy is independent; only the list of calls grows.
        other = copy.copy(self)
        other._calls = None if self._calls is None else list(self._calls)
        return other

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Select rows, in the given order."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Select rows, in the given order; a boolean mask keeps rows."""
        if self._state is None:
            return
        rows = indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices
        self._state = select_state(self._state, rows)
        if self._pending is not None:
            self._pending = self._pending.select(rows)
        if self._calls is not None:
            self._calls = [
                Call(select_state(call.before, rows), call.tokens.select(rows)) for call in self._calls
            ]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        if self._state is not None:
            self.batch_select_indices(torch.arange(self.batch_size).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget the text."""
        self._state = None
        self._seen = torch.zeros_like(self._seen)
        self._pending = None
        if self._calls is not None:
            self._calls = []
