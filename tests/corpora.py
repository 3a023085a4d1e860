"""Texts and token files that several files of tests read."""

import json
import random
from pathlib import Path

from fftnet.data.cache import TokenCache
from fftnet.data.token_file import TokenFile
from fftnet.utils.dataset import DataConfig
from fftnet.utils.tokenizer import Tokenizer, load_tokenizer

BYTES = load_tokenizer("bytes")
WORDS = [
    "the",
    "Fourier",
    "of",
    "x²",
    "naïve",
    "12345",
    "don't",
    "東京",
    "\n",
    "\n\n",
    "  ",
    "(a,b)",
    "\t",
    "😀",
    "end.",
]


def story(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return "Once " + " ".join(rng.choice(WORDS) for _ in range(words))


def bpe(vocab_size: int = 300) -> Tokenizer:
    return load_tokenizer("bpe", corpus=[story(n, 300) for n in range(20)], vocab_size=vocab_size)


def cached(folder: Path, *sources: str | Path, tokenizer: Tokenizer = BYTES) -> TokenFile:
    cache = TokenCache([str(s) for s in sources], "text", tokenizer, str(folder / "cache"))
    return cache.open(cache.find())


def expected(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [tokenizer.eot, *(t for text in texts for t in (*tokenizer.encode(text), tokenizer.eot))]


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def in_cache(tmp_path: Path, *sources: Path, **values: object) -> DataConfig:
    fields = {"data": [str(s) for s in sources], "in_memory_mb": 0.0, "cache_dir": str(tmp_path / "cache")}
    return DataConfig(**(fields | values))  # pyright: ignore[reportArgumentType]
