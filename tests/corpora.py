"""Texts and token files that several files of tests read."""

import json
import random
from pathlib import Path

import torch
from torch import Tensor

from fftnet.data.cache import cached_tokens
from fftnet.data.sources import resolve
from fftnet.data.splits import read_chunks
from fftnet.data.tokens import SplitView, TokenArrays, view_segments
from fftnet.protocols import Batch
from fftnet.utils.dataset import DataConfig, load_tokens, split_views
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer

BYTES = load_tokenizer("bytes")
WORDS = [
    *("the", "Fourier", "of", "x²", "naïve", "12345", "don't", "東京"),
    *("\n", "\n\n", "  ", "(a,b)", "\t", "😀", "end."),
]


def story(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return "Once " + " ".join(rng.choice(WORDS) for _ in range(words))


def rows_of(batch: Batch) -> Tensor:
    """Return the rows (B, T + 1) that a batch was cut from, int64, with -1 for padding."""
    inputs, targets, loss_mask, attention_mask, _ = batch
    if attention_mask is None:
        attention_mask = torch.ones_like(loss_mask)
    else:
        assert not attention_mask.all()
    for tokens, present in ((inputs, attention_mask), (targets, loss_mask)):
        assert tokens.dtype == torch.int64
        assert present.dtype == torch.bool
        assert tokens.shape == present.shape
        assert (tokens[~present] == 0).all()
    inputs = inputs.masked_fill(~attention_mask, -1)
    targets = targets.masked_fill(~loss_mask, -1)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    return torch.cat([inputs[:, :1], targets], dim=1)


def bpe(vocab_size: int = 300) -> Tokenizer:
    return load_tokenizer("bpe", corpus=[story(n, 300) for n in range(20)], vocab_size=vocab_size)


def cached(folder: Path, *sources: str | Path, tokenizer: Tokenizer = BYTES) -> TokenArrays:
    config = in_cache(folder, *sources)
    return cached_tokens(config, resolve(config.data), tokenizer)


def load_whole(config: DataConfig, tokenizer: Tokenizer = BYTES) -> SplitView:
    return view_segments(load_tokens(config, tokenizer))


def load_views(config: DataConfig, tokenizer: Tokenizer = BYTES) -> list[SplitView]:
    return split_views(load_tokens(config, tokenizer), config)


def texts_of(*sources: str | Path, text_field: str = "text") -> list[str]:
    """Return the documents of the sources in their order."""
    documents = [""]
    for chunk in read_chunks(resolve([str(source) for source in sources]), text_field):
        documents[-1] += chunk.text
        if chunk.ends_document:
            documents.append("")
    return documents[:-1]


def expected(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [tokenizer.eot, *(t for text in texts for t in (*tokenizer.encode(text), tokenizer.eot))]


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def in_cache(tmp_path: Path, *sources: str | Path, **values: object) -> DataConfig:
    fields = {"data": [str(s) for s in sources], "in_memory_mb": 0.0, "cache_dir": str(tmp_path / "cache")}
    return DataConfig(**(fields | values))  # pyright: ignore[reportArgumentType]
