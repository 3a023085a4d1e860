"""A model for the Language Model Evaluation Harness (``lm-eval``), registered as ``fftnet`` on import.

Needs the extra ``eval``. ``fftnet lm_eval`` is the harness's own command with this model in it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

# The harness is no part of what developers install, so a check of types may not find it.
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from torch import Tensor
from tqdm import tqdm

from fftnet.api.generate import SamplingConfig, generate
from fftnet.api.load import load
from fftnet.errors import UserError
from fftnet.evaluation.documents import chunk_length
from fftnet.tasks.text import token_losses

BATCH_SIZE = 16
"""Rows side by side where the harness leaves the choice to the model."""
HARNESS_DEVICE = "cuda:0"
"""What the harness's command asks for where its user asks for none."""
SAMPLING = {"do_sample", "max_gen_toks", "seed", "temperature", "top_k", "top_p", "until"}
"""What a task may say of generation."""


class EvaluationError(UserError, ValueError):
    """The harness asks for what this model can't do; the message says what instead."""


class Scored(NamedTuple):
    """A row of tokens, of which the last ones count."""

    tokens: list[int]
    counted: int
    """Tokens at the end whose log-probabilities are summed."""


@register_model("fftnet")
class FFTNetLM(TemplateLM):
    """A trained FFTNet as the harness sees it: every text follows an end-of-text token, as in training.

    There is no longest text: contexts and documents are read whole, in chunks that hand on the state, and
    what comes out does not depend on the batch or the chunks.

    Args:
        checkpoint: folder of a checkpoint or of runs, as ``fftnet.load`` takes it.
        batch_size: rows side by side; "auto" is 16.
        device: cpu, cuda, or auto.
        max_batch_size: of no use here; the harness hands it over.
        chunk_size: tokens read at once; None takes what memory allows.

    Raises:
        UserError: if the checkpoint can't be loaded or is bidirectional, or a size is wrong.
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
        if device == HARNESS_DEVICE and not torch.cuda.is_available():
            device = None
        self.model, self._encoding = load(checkpoint, device=device or "auto")
        self._device = self.model.embedding.weight.device
        if not self.model.config.causal:
            raise EvaluationError(
                "the checkpoint is bidirectional, and the harness asks for next tokens: take a causal one"
            )
        automatic = batch_size is None or str(batch_size).startswith("auto")
        self.batch_size = BATCH_SIZE if automatic else _size("batch_size", batch_size)
        self._chunk_size = None if chunk_size is None else _size("chunk_size", chunk_size)

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text, and stands before the first token of each."""
        return self._encoding.eot

    @property
    def tokenizer_name(self) -> str:
        """Tells this tokenizer from others in the harness's caches."""
        return f"fftnet-{self._encoding.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Ids of a text, without an end-of-text token."""
        return self._encoding.encode(string)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Nats (negative) of whole documents: the state is carried from the first token to the last."""
        rows = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            rows.append(Scored([self.eot_token_id, *tokens], len(tokens)))
        answers = [total for total, _ in self._score(rows, disable_tqdm)]
        for request, total in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts that go on from the contexts, up to the first stop sequence or end of text.

        Greedy unless a task says ``do_sample`` or a temperature; then row number i of a batch has seed + i.

        Raises:
            EvaluationError: if a task asks for another way of choosing tokens.
        """
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests")
        for group in groups.values():
            group.sort(key=lambda index: -len(requests[index].args[0]))
            for start in range(0, len(group), self.batch_size):
                rows = group[start : start + self.batch_size]
                contexts = [requests[index].args[0] for index in rows]
                texts = self._write(contexts, requests[rows[0]].args[1])
                for index, text in zip(rows, texts, strict=True):
                    answers[index] = text
                    self.cache_hook.add_partial("generate_until", requests[index].args, text)
                bar.update(len(rows))
        bar.close()
        return answers

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **options: Any,
    ) -> list[tuple[float, bool]]:
        rows = []
        for _, context, continuation in requests:
            # An empty context comes as the end-of-text token already.
            start = [] if context == [self.eot_token_id] else [self.eot_token_id]
            rows.append(Scored([*start, *context, *continuation], len(continuation)))
        answers = self._score(rows, disable_tqdm)
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _score(self, rows: Sequence[Scored], quiet: bool) -> list[tuple[float, bool]]:
        """Log-probability of the counted tokens of each row, and whether each of them is the likeliest."""
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].tokens))
        bar = tqdm(total=len(rows), disable=quiet, desc="Running loglikelihood requests")
        for start in range(0, len(rows), self.batch_size):
            batch = order[start : start + self.batch_size]
            for index, answer in zip(batch, self._read([rows[index] for index in batch]), strict=True):
                answers[index] = answer
            bar.update(len(batch))
        bar.close()
        return answers

    @torch.inference_mode()
    def _read(self, rows: Sequence[Scored]) -> list[tuple[float, bool]]:
        """One batch, in chunks that hand on the state; padding behind a row changes nothing before it."""
        tokens_BT, counted_BT = _padded(rows)
        tokens_BT = tokens_BT.to(self._device)
        counted_BT = counted_BT.to(self._device)
        size = self._chunk_size or chunk_length(self.model, len(rows))
        state = self.model.init_state(len(rows))
        total_B = torch.zeros(len(rows), dtype=torch.float64)
        missed_B = torch.zeros(len(rows), dtype=torch.int64)
        for start in range(0, tokens_BT.shape[1] - 1, size):
            piece_BT = tokens_BT[:, start : start + size + 1]
            mask_BT = counted_BT[:, start + 1 : start + size + 1]
            logits_BTV, state = self.model.prefill(piece_BT[:, :-1], state)
            each = token_losses(logits_BTV, piece_BT[:, 1:], mask_BT)
            total_B -= each.loss.cpu().double().sum(dim=1)
            missed_B += (mask_BT & ~each.correct).sum(dim=1).cpu()
        return list(zip(total_B.tolist(), (missed_B == 0).tolist(), strict=True))

    def _write(self, contexts: list[str], asked: dict[str, Any]) -> list[str]:
        settings: dict[str, Any] = dict(normalize_gen_kwargs(asked))
        unknown = sorted(set(settings) - SAMPLING)
        if unknown:
            known = ", ".join(sorted(SAMPLING))
            raise EvaluationError(f"generation can't be told {unknown[0]}: a task may set {known}")
        stops = [stop for stop in settings["until"] if stop]
        sampling = SamplingConfig(
            max_new_tokens=settings["max_gen_toks"],
            temperature=settings.get("temperature", 1.0) if settings["do_sample"] else 0.0,
            top_k=settings.get("top_k"),
            top_p=settings.get("top_p", 1.0),
            seed=settings.get("seed", 0),
        )
        decoders = [self._encoding.stream() for _ in contexts]
        texts = [""] * len(contexts)
        for new in generate(self.model, contexts, sampling, tokenizer=self._encoding):
            for row, token in enumerate(new):
                texts[row] += "" if token is None else decoders[row].push(token)
            running = (text for text, token in zip(texts, new, strict=True) if token is not None)
            if all(any(stop in text for stop in stops) for text in running):
                break
        texts = [text + decoder.finish() for text, decoder in zip(texts, decoders, strict=True)]
        return [postprocess_generated_text(text, stops, None) for text in texts]


def _padded(rows: Sequence[Scored]) -> tuple[Tensor, Tensor]:
    """int64 (B, T), padded behind the rows; boolean, the tokens that count."""
    longest = max(len(row.tokens) for row in rows)
    tokens_BT = torch.zeros(len(rows), longest, dtype=torch.int64)
    counted_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        length = len(row.tokens)
        tokens_BT[index, :length] = torch.tensor(row.tokens)
        counted_BT[index, length - row.counted : length] = True
    return tokens_BT, counted_BT


def _size(name: str, value: Any) -> int:
    try:
        size = int(value)
    except ValueError:
        size = 0
    if size < 1:
        raise EvaluationError(f"{name} must be at least 1, got {value}")
    return size
