"""Generation: prefill of the prompts, then one decode step of constant cost per token."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Protocol, overload

import torch
from torch import Tensor, nn

from fftnet.api.sampling import SamplingConfig, sample
from fftnet.errors import suggestion
from fftnet.fields import check_config
from fftnet.metrics.averages import evaluation_mode
from fftnet.model import State, concat_states, select_state

if TYPE_CHECKING:
    import numpy as np

    from fftnet.utils.tokenizer import Tokenizer


class Writer(Protocol):
    """Model that generates: a causal ``FFTNet``, or a runtime of an exported one."""

    @property
    def causal(self) -> bool:
        """True if the model sees the past only; others are refused."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of ids and logits."""
        ...

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token, for ``batch_size`` rows."""
        ...

    def prefill(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        attention_mask: Tensor | None = None,
        chunk_size: int | None = None,
        logits_to_keep: int | None = None,
    ) -> tuple[Tensor, State]:
        """Return logits (B, 1, V) after ids (B, T), with ``logits_to_keep=1``, and the new state.

        Tokens at which ``attention_mask`` is False are skipped.
        """
        ...

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Return logits (B, V) after one more id per row, int64 (B,), and the new state; keep the old one."""
        ...


class Generation:
    """Generation in progress, made by ``generate``: iterate over tokens, or read the whole result.

    Iteration yields a list with the new id for every prompt, None if its text has ended. ``tokens``,
    ``texts`` and ``state`` first generate to the end.
    """

    def __init__(
        self,
        model: Writer,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig,
        stop: int | None,
        state: State | None,
        tokenizer: "Tokenizer | None",
    ) -> None:
        self._model = model
        self._config = config
        self._stop = stop
        self._tokenizer = tokenizer
        self._written: list[list[int]] = [[] for _ in prompts]
        self._states: list[State | None] = [None for _ in prompts]
        self._unread: tuple[Tensor, State] | None = None
        self._steps = self._write(prompts, state)

    def __iter__(self) -> Iterator[list[int | None]]:
        return self._steps

    def close(self) -> None:
        """Stop here: ``tokens``, ``texts`` and ``state`` are those generated so far."""
        self._steps.close()

    @property
    def tokens(self) -> list[list[int]]:
        """New ids after each prompt."""
        for _ in self._steps:
            pass
        return [list(row) for row in self._written]

    @property
    def texts(self) -> list[str]:
        """New text after each prompt.

        Raises:
            ValueError: if no tokenizer was given.
        """
        if self._tokenizer is None:
            raise ValueError("texts need a tokenizer: pass one to generate, or read tokens")
        return [self._tokenizer.decode(row) for row in self.tokens]

    @property
    @torch.inference_mode()
    def state(self) -> State:
        """State after the prompts and all new tokens, from which ``generate`` can continue."""
        for _ in self._steps:
            pass
        # The last sampled tokens have not been read yet.
        if self._unread is not None:
            token_B, before = self._unread
            self._unread = None
            with self._evaluating():
                _, after = self._model.step(token_B, before)
            self._states = [
                select_state(after, [row]) if state is None else state
                for row, state in enumerate(self._states)
            ]
        return concat_states([state for state in self._states if state is not None])

    @torch.inference_mode()
    def _write(self, prompts: Sequence[Sequence[int]], state: State | None) -> Generator[list[int | None]]:
        device, seed = self._model.device, self._config.seed
        # One generator per row: the text of a prompt does not depend on the rest of the batch.
        generators = [torch.Generator(device).manual_seed(seed + row) for row in range(len(prompts))]
        step = _compiled(self._model) if self._config.compile else self._model.step
        with self._evaluating():
            logits_BV, state = _prefill(self._model, prompts, state)
        for _ in range(self._config.max_new_tokens):
            if self._unread is not None:
                with self._evaluating():
                    logits_BV, state = step(*self._unread)
            token_B = sample(logits_BV, self._config, generators)
            self._unread = (token_B, state)
            new = self._take(token_B.tolist(), state)
            # All texts have ended, and their states are kept.
            if all(token is None for token in new):
                self._unread = None
                return
            yield new

    def _evaluating(self) -> AbstractContextManager[None]:
        """Return a context of evaluation mode for one call: between tokens the caller may train the model."""
        if isinstance(self._model, nn.Module) and self._model.training:
            return evaluation_mode(self._model)
        return nullcontext()

    def _take(self, tokens: list[int], state: State) -> list[int | None]:
        """Record the sampled tokens; a text that ends here keeps its state."""
        for row, token in enumerate(tokens):
            if self._states[row] is None and token == self._stop:
                self._states[row] = select_state(state, [row])
            if self._states[row] is None:
                self._written[row].append(token)
        return [token if self._states[row] is None else None for row, token in enumerate(tokens)]


@overload
def generate(  # pyright: ignore[reportOverlappingOverload]
    model: Writer,
    prompts: str,
    config: SamplingConfig | None = None,
    *,
    tokenizer: "Tokenizer | None" = None,
    stop: int | None = None,
    state: State | None = None,
    **sampling: Any,
) -> str: ...
@overload
def generate(
    model: Writer,
    prompts: "Sequence[str] | Sequence[Sequence[int]] | Tensor | np.ndarray",
    config: SamplingConfig | None = None,
    *,
    tokenizer: "Tokenizer | None" = None,
    stop: int | None = None,
    state: State | None = None,
    **sampling: Any,
) -> Generation: ...
def generate(
    model: Writer,
    prompts: Any,
    config: SamplingConfig | None = None,
    *,
    tokenizer: "Tokenizer | None" = None,
    stop: int | None = None,
    state: State | None = None,
    **sampling: Any,
) -> Generation | str:
    """Continue one or more prompts of any lengths.

        >>> model, tokenizer = fftnet.load("models/shakespeare")
        >>> generate(model, "ROMEO.\\n", temperature=0.6, max_new_tokens=200)   # the text
        >>> generate(model, ["Once", "The for statement"]).texts
        >>> for tokens in generate(model, [[5, 3, 8]]): ...                   # token by token
        >>> first = generate(model, ["Hello."])
        >>> generate(model, [" And then"], state=first.state)                 # reads the new prompt only

    Args:
        model: causal model, or a runtime of one; it generates in evaluation mode.
        prompts: a text; or a list of texts, or of lists of ids, at least one id per prompt.
        config: number of tokens, and how each is chosen.
        tokenizer: encodes and decodes texts (default: the one that ``fftnet.load`` has loaded). A new text
            starts with its end-of-text token, which also ends the generated text.
        stop: id that ends a text and is not part of it (default: the tokenizer's end of text, if texts or a
            tokenizer are given).
        state: the ``state`` of an earlier generation or of ``model.prefill``, one row per prompt.
        **sampling: fields of ``SamplingConfig``, which override ``config``.

    Returns:
        The new text for a single text, else a ``Generation``.

    Raises:
        TypeError: if a keyword is not a field of ``SamplingConfig``.
        ValueError: if there is no prompt or one is empty, the model is bidirectional, or a runtime should be
            compiled. During generation: if the model is damaged, or compilation fails.
    """
    config = _sampling(config, sampling)
    if isinstance(prompts, str):
        return generate(model, [prompts], config, tokenizer=tokenizer, stop=stop, state=state).texts[0]
    if not model.causal:
        raise ValueError("a bidirectional model can't write: train one with causal=True")
    if config.compile and not isinstance(model, nn.Module):
        raise ValueError("compile works with PyTorch models only, not with an exported model: leave it out")
    prompts = prompts.tolist() if hasattr(prompts, "tolist") else prompts
    if not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(
            f"prompts must be a text or a list of at least one text or list of ids, got {prompts!r}"
        )
    if tokenizer is None and any(isinstance(prompt, str) for prompt in prompts):
        tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None and stop is None:
        stop = tokenizer.eot
    rows = [_ids(prompt, tokenizer, new_text=state is None) for prompt in prompts]
    if not all(rows):
        raise ValueError("a prompt is empty: start with the tokenizer's end-of-text token")
    return Generation(model, rows, config, stop, state, tokenizer)


def _sampling(config: SamplingConfig | None, given: dict[str, Any]) -> SamplingConfig:
    """Return the configuration, with fields replaced by keywords."""
    if config is not None:
        check_config("config", config, SamplingConfig)
    known = [field.name for field in fields(SamplingConfig)]
    for name in given:
        if name not in known:
            close = suggestion(name, known) or f"; choose from {', '.join(known)}"
            raise TypeError(f"generate() got an unexpected keyword {name!r}{close}")
    return replace(config or SamplingConfig(), **given)


def _ids(prompt: Any, tokenizer: "Tokenizer | None", *, new_text: bool) -> list[int]:
    """Return the ids of a prompt, given as a text, a list, a tensor or an array."""
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError("a text needs a tokenizer: pass one to generate, or encode the prompts yourself")
        # Documents are separated by this token in training, so that a model expects it before a new text.
        return [tokenizer.eot] * new_text + tokenizer.encode(prompt)
    prompt = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    if not isinstance(prompt, Sequence):
        raise ValueError(f"a prompt must be a text or a list of ids, as in [[1, 2], [3]], got {prompt!r}")
    return list(prompt)


def _prefill(model: Writer, prompts: Sequence[Sequence[int]], state: State | None) -> tuple[Tensor, State]:
    """Return logits (B, V) and the state after each prompt; shorter prompts are padded on the left."""
    lengths = [len(prompt) for prompt in prompts]
    tokens_BT = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
    mask_BT = torch.zeros_like(tokens_BT, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, -len(prompt) :] = torch.tensor(list(prompt))
        mask_BT[row, -len(prompt) :] = True
    logits_BTV, state = model.prefill(
        tokens_BT.to(model.device),
        state,
        # Mixers are faster without a mask.
        attention_mask=None if len(set(lengths)) == 1 else mask_BT.to(model.device),
        # Bounds the memory for long prompts.
        chunk_size=4096,
        logits_to_keep=1,
    )
    return logits_BTV[:, -1], state


def _compiled(model: Writer) -> Callable[[Tensor, State], tuple[Tensor, State]]:
    # Imported here because it takes a second.
    from torch._dynamo.exc import TorchDynamoException

    step = torch.compile(model.step)

    def checked(token_B: Tensor, state: State) -> tuple[Tensor, State]:
        try:
            return step(token_B, state)
        except TorchDynamoException as error:
            raise ValueError(
                "the decode step can't be compiled here, which needs a C++ compiler: leave out compile"
            ) from error

    return checked
