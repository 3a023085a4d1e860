"""A tokenizer as ``tokenizer.json``, the file of Hugging Face Tokenizers, which a checkpoint holds.

The file describes a byte-level BPE with one merge for each token: the pair of tokens that TikToken joins
last. Both libraries then cut every text alike (tests/hf/test_tokenization.py).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fftnet.data.encodings import BYTES, END_OF_TEXT, Definition, byte_stand_ins
from fftnet.data.errors import TokenizerError
from fftnet.serialization import CheckpointError, read_json

LIBRARY_FILE = "tokenizer.json"
LIBRARY_CONFIG_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
NAME_FIELD = "fftnet_encoding"
"""Field of the library's configuration that keeps the name of the encoding."""
ATOM = r"(?:\\p\{\^?\w+\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\\{}()\[\]])"
"""A single item of a regular expression."""
# A possessive count such as a{1,3}+ means something else to the library's engine, where it is (?>a{1,3}).
POSSESSIVE = re.compile(rf"({ATOM}\{{\d+(?:,\d*)?\}})\+")
ATOMIC = re.compile(rf"\(\?>({ATOM}\{{\d+(?:,\d*)?\}})\)")


def library_files(name: str, definition: Definition) -> dict[str, str]:
    """Return names and contents of the files that describe an encoding to the libraries."""
    end = definition.special_tokens[END_OF_TEXT]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        NAME_FIELD: name,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 10**30,
    }
    generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return {
        LIBRARY_FILE: json.dumps(_describe(definition), ensure_ascii=False) + "\n",
        LIBRARY_CONFIG_FILE: json.dumps(config, indent=2) + "\n",
        GENERATION_FILE: json.dumps(generation, indent=2) + "\n",
    }


def read_library_files(directory: Path) -> tuple[str, Definition]:
    """Read the name of the encoding and its definition."""
    path = directory / LIBRARY_FILE
    try:
        described = read_json(path)
        stage = described["pre_tokenizer"]
        stages = stage["pretokenizers"] if stage["type"] == "Sequence" else [stage]
        # Every look-up may fail in a damaged file; the errors are caught together below.
        vocabulary = described["model"]["vocab"]
        added = described["added_tokens"]
        known = described["model"]["type"] == "BPE" and described["normalizer"] is None
        if not known or [stage["type"] for stage in stages] not in (["ByteLevel"], ["Split", "ByteLevel"]):
            raise TokenizerError(
                f"{path} is not a byte-level BPE as FFTNet's are: load it with Transformers' AutoTokenizer"
            )
        texts = [token["content"] for token in added if not token["special"]]
        if texts:
            raise TokenizerError(
                f"{path} has the added token {texts[0]!r}, which stands for text: load it with Transformers' "
                "AutoTokenizer, or add it as a special token"
            )
        special = {token["content"]: token["id"] for token in added}
        byte_of = byte_stand_ins()
        ranks = {
            bytes(byte_of[character] for character in piece): rank
            for piece, rank in vocabulary.items()
            if piece not in special
        }
        pattern = BYTES.pattern if len(stages) == 1 else ATOMIC.sub(r"\1+", stages[0]["pattern"]["Regex"])
    except TokenizerError:
        raise
    except CheckpointError as error:
        raise TokenizerError(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise TokenizerError(f"{path} is damaged, take another checkpoint: {error!r}") from error
    try:
        name = str(read_json(directory / LIBRARY_CONFIG_FILE)[NAME_FIELD])
    # Files of other tools do not have the field.
    except (CheckpointError, KeyError, TypeError):
        name = directory.resolve().name
    return name, Definition(pattern, ranks, special)


def _describe(definition: Definition) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    stages: list[dict[str, Any]] = [byte_level]
    # Without merges, pieces do not matter, and bytes need no pattern.
    if definition != BYTES:
        pattern = {"Regex": POSSESSIVE.sub(r"(?>\1)", definition.pattern)}
        stages.insert(0, {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    stand_in = {byte: character for character, byte in byte_stand_ins().items()}
    shown = {piece: "".join(stand_in[byte] for byte in piece) for piece in definition.ranks}
    special = sorted(definition.special_tokens.items(), key=lambda item: item[1])
    vocabulary = {shown[piece]: rank for piece, rank in definition.ranks.items()}
    # The library numbers added tokens after the vocabulary, except for those that the vocabulary contains.
    if [number for _, number in special] != list(range(len(vocabulary), len(vocabulary) + len(special))):
        vocabulary |= dict(special)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": content, **flags} for content, number in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": stages},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": vocabulary,
            "merges": [[shown[left], shown[right]] for left, right in _merges(definition.ranks)],
        },
    }


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the two tokens that make each longer one, in the order of their ranks."""
    for piece, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(piece) > 1:
            parts = _split(piece, rank, ranks)
            # A token that no two others make is found only as a whole piece of text, which needs no merge.
            if len(parts) == 2:
                yield parts[0], parts[1]


def _split(piece: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return the parts of a piece after every merge below ``rank``, the lowest and leftmost first."""
    parts = [piece[index : index + 1] for index in range(len(piece))]
    while len(parts) > 2:
        pairs = [ranks.get(parts[index] + parts[index + 1], rank) for index in range(len(parts) - 1)]
        lowest = min(pairs)
        if lowest >= rank:
            break
        index = pairs.index(lowest)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts
