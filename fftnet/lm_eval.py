"""Model class for the Language Model Evaluation Harness (``lm-eval``), registered as ``fftnet`` on import.

Requires the extra ``eval``. ``fftnet lm_eval`` is the harness's command with this model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

# The harness is not among the requirements of developers, so a type checker may not find it.
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
    Collator,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from fftnet.api.generate import SamplingConfig, generate
from fftnet.api.load import load
from fftnet.errors import UserError
from fftnet.evaluation.documents import chunk_length
from fftnet.tasks.text import token_losses

SAMPLING = {"do_sample", "max_gen_toks", "seed", "temperature", "top_k", "top_p", "until"}
"""Generation settings that a task may use."""


class EvaluationError(UserError, ValueError):
    """The harness asks for something that this model can't do; the message names the way out."""


@register_model("fftnet")
class FFTNetLM(TemplateLM):
    """A trained FFTNet for the harness.

    Not a subclass of the harness's ``HFLM``: every text follows an end-of-text token, as in training, and
    contexts and documents of any length are read whole, in chunks that carry the state. Batch size and chunk
    size do not change the results.

    Args:
        checkpoint: folder of a checkpoint or of runs, as for ``fftnet.load``.
        batch_size: rows per batch; "auto" is 16.
        device: cpu, cuda, or auto.
        max_batch_size: ignored; the harness passes it.
        chunk_size: tokens read at once (None: as many as fit into memory).
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        batch_size: int | str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        # The command always passes a device; without a GPU its default, cuda:0, means "choose one".
        if device == "cuda:0" and not torch.cuda.is_available():
            device = None
        self.model, self._encoding = load(checkpoint, device=device or "auto")
        self._device = self.model.device
        if not self.model.config.causal:
            raise EvaluationError(
                "the checkpoint is bidirectional, and the harness asks for next tokens: take a causal one"
            )
        # "auto:4" and the like ask for a search of the batch size, which a fixed one replaces.
        automatic = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = 16 if automatic else _size("batch_size", batch_size)
        self._chunk_size = None if chunk_size is None else _size("chunk_size", chunk_size)

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text and precedes the first token of each."""
        return self._encoding.eot

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness's caches."""
        return f"fftnet-{self._encoding.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Return the ids of a text, without an end-of-text token."""
        return self._encoding.encode(string)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probabilities of whole documents, in nats."""
        rows = [([], self.tok_encode(request.args[0])) for request in requests]
        answers = [total for total, _ in self._score(rows, disable_tqdm)]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return continuations of the contexts, up to the first stop sequence or end of text.

        Greedy unless a task sets ``do_sample`` or a temperature; then row i of a batch has the seed + i.
        """
        arguments = [request.args for request in requests]
        answers = self._batched(
            Collator(arguments, lambda pair: -len(pair[0]), group_by="gen_kwargs"),
            lambda batch: self._write([context for context, _ in batch], batch[0][1]),
            tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests"),
        )
        for pair, answer in zip(arguments, answers, strict=True):
            self.cache_hook.add_partial("generate_until", pair, answer)
        return answers

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **options: Any,
    ) -> list[tuple[float, bool]]:
        # The harness passes an end-of-text token for an empty context; _read puts one before every text.
        empty = [self.eot_token_id]
        rows = [([] if context == empty else context, tokens) for _, context, tokens in requests]
        answers = self._score(rows, disable_tqdm)
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _score(self, rows: Sequence[tuple[list[int], list[int]]], quiet: bool) -> list[tuple[float, bool]]:
        """Return the log-probability of each continuation, and True if it is the greedy one."""
        return self._batched(
            Collator(rows, lambda row: -len(row[0]) - len(row[1])),
            self._read,
            tqdm(total=len(rows), disable=quiet, desc="Running loglikelihood requests"),
        )

    def _batched(self, order: Any, answer: Callable[[Any], list[Any]], bar: Any) -> list[Any]:
        """Answer requests batch by batch, and return the answers in the original order."""
        answers = []
        with bar:
            for batch in order.get_batched(n=self.batch_size):
                answers += answer(batch)
                bar.update(len(batch))
        return order.get_original(answers)

    @torch.inference_mode()
    def _read(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Score one batch in chunks that carry the state."""
        # Padding is on the right: the model is causal, so it changes nothing before it.
        whole = [torch.tensor([self.eot_token_id, *context, *tokens]) for context, tokens in rows]
        tokens_BT = pad_sequence(whole, batch_first=True).to(self.device)
        counted = [torch.arange(1 + len(context) + len(tokens)) > len(context) for context, tokens in rows]
        counted_BT = pad_sequence(counted, batch_first=True).to(self.device)
        size = self._chunk_size or chunk_length(self.model, len(rows))
        state = self.model.init_state(len(rows))
        total_B = torch.zeros(len(rows), dtype=torch.float64)
        greedy_B = torch.ones(len(rows), dtype=torch.bool)
        for start in range(0, tokens_BT.shape[1] - 1, size):
            piece_BT = tokens_BT[:, start : start + size + 1]
            mask_BT = counted_BT[:, start + 1 : start + size + 1]
            logits_BTV, state = self.model.prefill(piece_BT[:, :-1], state)
            each = token_losses(logits_BTV, piece_BT[:, 1:], mask_BT)
            total_B -= each.loss.cpu().double().sum(dim=1)
            greedy_B &= (each.correct | ~mask_BT).all(dim=1).cpu()
        return list(zip(total_B.tolist(), greedy_B.tolist(), strict=True))

    def _write(self, contexts: list[str], asked: dict[str, Any]) -> list[str]:
        settings: dict[str, Any] = dict(normalize_gen_kwargs(asked))
        unknown = sorted(set(settings) - SAMPLING)
        if unknown:
            known = ", ".join(sorted(SAMPLING))
            raise EvaluationError(f"unsupported generation setting {unknown[0]}: a task may set {known}")
        stops = [stop for stop in settings["until"] if stop]
        sampling = SamplingConfig(
            max_new_tokens=settings["max_gen_toks"],
            temperature=settings.get("temperature", 1.0) if settings["do_sample"] else 0.0,
            top_k=settings.get("top_k"),
            top_p=settings.get("top_p", 1.0),
            seed=settings.get("seed", 0),
        )
        generation = generate(self.model, contexts, sampling, tokenizer=self._encoding)
        # Decoded token by token, only to end the batch when every text has a stop sequence.
        decoders = [self._encoding.stream() for _ in contexts]
        texts = [""] * len(contexts)
        for new in generation:
            for row, token in enumerate(new):
                texts[row] += "" if token is None else decoders[row].push(token)
            running = (text for text, token in zip(texts, new, strict=True) if token is not None)
            if all(any(stop in text for stop in stops) for text in running):
                generation.close()
        return [postprocess_generated_text(text, stops, None) for text in generation.texts]


def _size(name: str, value: Any) -> int:
    try:
        size = int(value)
    except ValueError:
        size = 0
    if size < 1:
        raise EvaluationError(f"{name} must be at least 1, got {value}")
    return size
