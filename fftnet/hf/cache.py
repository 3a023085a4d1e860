"""The cache of Transformers, around native states.

A state is a value, so one of an earlier time is kept by keeping a reference. That is how a recurrent model
can take tokens back, as assisted decoding does: the cache goes back to the state before the call that read
them, and the tokens of that call which stay are read again with the next one.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import cache_utils, modeling_outputs

from fftnet.model.config import BackboneConfig
from fftnet.model.mixers import mixer_class
from fftnet.model.state import State, num_rows, select_state

OLD_CACHE_NAME = "past_key_values"
CACHE_NAME = (
    "cache" if "cache" in modeling_outputs.CausalLMOutputWithPast.__dataclass_fields__ else OLD_CACHE_NAME
)
"""What the library calls a cache among arguments and outputs: 5.24 renamed it."""


class Tokens(NamedTuple):
    """Tokens as they are read."""

    embeddings: Tensor
    """(B, T, D)"""
    mask: Tensor | None
    """Boolean (B, T), False at padding; None: all are read."""

    @property
    def length(self) -> int:
        """T."""
        return self.embeddings.shape[1]

    def first(self, count: int) -> "Tokens":
        """The first so many."""
        return Tokens(self.embeddings[:, :count], None if self.mask is None else self.mask[:, :count])

    def before(self, later: "Tokens") -> "Tokens":
        """These, followed by later ones."""
        embeddings = torch.cat([self.embeddings, later.embeddings.to(self.embeddings)], dim=1)
        if self.mask is None and later.mask is None:
            return Tokens(embeddings, None)
        return Tokens(embeddings, torch.cat([self.full_mask(), later.full_mask()], dim=1))

    def select(self, rows: Tensor) -> "Tokens":
        """Rows, in the order given."""
        rows = rows.to(self.embeddings.device)
        mask = None if self.mask is None else self.mask.index_select(0, rows)
        return Tokens(self.embeddings.index_select(0, rows), mask)

    def full_mask(self) -> Tensor:
        """The mask (B, T), also where all are read."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.embeddings.shape[:2], dtype=torch.bool, device=self.embeddings.device)


class Call(NamedTuple):
    """A call that may be taken back."""

    before: State
    """What had been read before it."""
    tokens: Tokens


class FFTNetCacheLayer(cache_utils.CacheLayerMixin):
    """The state of one layer.

    Args:
        is_compileable: whether a compiled step may carry it, since its size does not change.
    """

    is_croppable = True

    def __init__(self, is_compileable: bool = False) -> None:
        super().__init__()
        self.is_compileable = is_compileable
        self.state: Any = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Refuse: there are no keys and values to hold."""
        raise NotImplementedError("a layer of FFTNet has a state, no keys and values: hand it to the model")

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Refuse, as ``lazy_initialization``."""
        self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Sizes of a mask over the new tokens alone: earlier ones are in the state."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Refuse: the cache as a whole counts tokens."""
        raise NotImplementedError("the cache counts tokens, not its layers: ask cache.get_seq_length()")

    def get_max_length(self) -> int:
        """-1: a state holds a text of any length."""
        return -1


class FFTNetCache(cache_utils.Cache):
    """What a causal model has read, for ``generate`` and ``forward``.

        >>> first = model.generate(ids, return_dict_in_generate=True, max_new_tokens=20)
        >>> later = torch.cat([first.sequences, more], dim=1)
        >>> model.generate(later, cache=first.cache.copy())  # past_key_values before Transformers 5.24

    Args:
        config: of the model, native or of ``fftnet.hf``.
        state: a native state to go on from; None starts a text.
        seen: tokens that the state has read, padding included.
        static: let ``generate`` compile the step, if no state of a layer grows.
    """

    def __init__(
        self, config: Any, state: State | None = None, *, seen: int = 0, static: bool = False
    ) -> None:
        native = config if isinstance(config, BackboneConfig) else config.native()
        steady = not any(mixer_class(name).grows for name in native.mixer_pattern)
        layers: list[Any] = [FFTNetCacheLayer(static and steady) for _ in native.layer_mixers]
        super().__init__(layers=layers)
        # A number that changes would have a compiled step compiled again at each token, a tensor does not.
        self._seen = torch.tensor(seen, dtype=torch.int64)
        self._pending: Tokens | None = None
        self._calls: list[Call] | None = None
        if state is not None:
            self._put(state)

    @property
    def state(self) -> State | None:
        """The native state, for ``FFTNet.step`` and the functions of ``fftnet.model``; None before a text.

        Raises:
            ValueError: if tokens were taken back and the model has not been called since.
        """
        if self._pending is not None:
            raise ValueError("tokens of this cache were taken back: call the model once to get its state")
        return self._layer_states()

    @property
    def batch_size(self) -> int:
        """Rows B, -1 before a text."""
        state = self._layer_states()
        return -1 if state is None else num_rows(state)

    @property
    def is_initialized(self) -> bool:
        """Whether something was read."""
        return self._layer_states() is not None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read, padding included."""
        return int(self._seen)

    def has_read(self, attention_mask: Tensor) -> bool:
        """Tell whether the cache has read the tokens that a mask keeps, and no others.

        A row that ends before the others is filled up with padding, which the model reads: a state can't
        forget it. Only the number of tokens is compared.

        Args:
            attention_mask: (B, seen or more), 0 at padding; the first ``seen`` positions count.
        """
        state = self._layer_states()
        counted_B = None if state is None else getattr(state[0], "count", None)
        if counted_B is None:
            return True
        if self._pending is not None:
            counted_B = counted_B + self._pending.full_mask().sum(dim=1).to(counted_B.device)
        kept_B = attention_mask[:, : self.get_seq_length()].bool().sum(dim=1)
        return torch.equal(kept_B.cpu(), counted_B.cpu())

    def begin(self, tokens: Tokens) -> tuple[Tokens, State | None]:
        """What must be read now (tokens that stay of those taken back, then the new) and the state before.

        Raises:
            ValueError: if the tokens have another number of rows than what was read.
        """
        rows = tokens.embeddings.shape[0]
        if self.batch_size not in (-1, rows):
            raise ValueError(
                f"the cache has {self.batch_size} rows, the tokens {rows}: cache.batch_repeat_interleave "
                "copies rows, cache.batch_select_indices picks them"
            )
        return tokens if self._pending is None else self._pending.before(tokens), self._layer_states()

    def finish(self, tokens: Tokens, before: State, after: State, new: int) -> None:
        """Take the state behind a call.

        Args:
            tokens: as ``begin`` gave them.
            before: the state before them.
            after: the state behind them.
            new: number of the tokens that were not pending.
        """
        if self._calls is not None:
            self._calls.append(Call(before, tokens))
        self._pending = None
        self._seen = self._seen.to(tokens.embeddings.device) + new
        self._put(after)

    def activate_past_recording(self) -> None:
        """Keep from now on what ``crop`` goes back to."""
        if self._calls is None:
            self._calls = []

    def crop(self, tokens_to_remove: int) -> None:
        """Take the last tokens back, and forget how to go back further.

        Args:
            tokens_to_remove: 0 or the negative number of tokens.

        Raises:
            ValueError: if it is positive, or more than was recorded.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes 0 or a negative number of tokens, got {tokens_to_remove}")
        left = -tokens_to_remove
        if left > self._recorded():
            raise ValueError(
                f"the cache can take back {self._recorded()} tokens, not {left}: call "
                "activate_past_recording before the model reads what is to be taken back"
            )
        self._seen = self._seen - left
        while left:
            if self._pending is None:
                call = self._calls.pop() if self._calls else None
                assert call is not None
                self._put(call.before)
                self._pending = call.tokens
            kept = max(self._pending.length - left, 0)
            left -= self._pending.length - kept
            self._pending = self._pending.first(kept) if kept else None
        if self._calls is not None:
            self._calls = []

    def copy(self) -> "FFTNetCache":
        """A cache of the same text that goes its own way. It costs nothing: states are shared, not copied."""
        other = copy.copy(self)
        other.layers = [copy.copy(layer) for layer in self.layers]
        other._calls = None if self._calls is None else list(self._calls)
        return other

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these rows, in this order."""
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take these rows, in this order; a boolean mask keeps rows."""
        self._select(indices.nonzero()[:, 0] if indices.dtype == torch.bool else indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have every row so many times."""
        if self.is_initialized:
            self._select(torch.arange(self.batch_size).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget the text."""
        for layer in self.layers:
            layer.state = None  # pyright: ignore[reportAttributeAccessIssue]
        self._seen = torch.zeros_like(self._seen)
        self._pending = None
        if self._calls is not None:
            self._calls = []

    def _select(self, rows: Tensor) -> None:
        state = self._layer_states()
        if state is None:
            return
        self._put(select_state(state, rows))
        if self._pending is not None:
            self._pending = self._pending.select(rows)
        if self._calls is not None:
            self._calls = [
                Call(select_state(call.before, rows), call.tokens.select(rows)) for call in self._calls
            ]

    def _recorded(self) -> int:
        pending = 0 if self._pending is None else self._pending.length
        return pending + sum(call.tokens.length for call in self._calls or [])

    def _layer_states(self) -> State | None:
        states: list[Any] = [getattr(layer, "state", None) for layer in self.layers]
        return None if states[0] is None else tuple(states)

    def _put(self, state: State) -> None:
        for layer, layer_state in zip(self.layers, state, strict=True):
            layer.state = layer_state  # pyright: ignore[reportAttributeAccessIssue]
