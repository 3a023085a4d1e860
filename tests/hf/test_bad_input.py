"""Wrong configurations, tensors and caches are refused in one sentence that names the way out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import both, write
from models import VOCAB, tokens

from fftnet import FFTNet
from fftnet.data.errors import TokenizerError
from fftnet.hf import (
    FFTNetCache,
    FFTNetConfig,
    FFTNetForCausalLM,
    FFTNetForMaskedLM,
    FFTNetForSequenceClassification,
    FFTNetModel,
    FFTNetTokenizer,
)
from fftnet.hf.cache import CACHE_NAME
from fftnet.serialization import CheckpointError

SIZES: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 8, "num_layers": 1}


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return both(tmp_path)[1]


@pytest.mark.parametrize(
    ("values", "message", "native"),
    [
        (
            {"model_type": "llama", "auto_map": {}},
            "config.json is that of a model of type 'llama', not 'fftnet': load",
            "is that of a model of type 'llama', not 'fftnet'",
        ),
        (
            {"architectures": ["Classifier"]},
            "config.json is that of Classifier, which is not a model of fftnet.hf",
            r"is that of \['Classifier'\], not of FFTNet: load it with",
        ),
        ({"mixers": ["magic"]}, "unknown mixer 'magic'; choose from", "unknown mixer 'magic'"),
        ({"num_heads": 3}, "num_heads=3 must divide d_model=8", "num_heads=3 must divide d_model=8"),
        ({"mixer_configs": {"attention": {"window": 3}}}, *["mixer 'attention' has no field 'window'"] * 2),
        *(
            ({"architectures": value}, "architectures must be a string or a list of strings", "architectures")
            for value in (5, {"a": 1}, [["FFTNet"]])
        ),
    ],
)
def test_wrong_configurations_are_refused(
    model: Any, tmp_path: Path, values: dict[str, Any], message: str, native: str
) -> None:
    change(tmp_path, **values)
    with pytest.raises(ValueError, match=f"^{message}"):
        FFTNetForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=native):
        FFTNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("sizes", [{"d_model": 2**20}, {"num_layers": 4096, "d_model": 256}])
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(
    model: Any, tmp_path: Path, sizes: dict[str, Any]
) -> None:
    change(tmp_path, **sizes)
    for load in (FFTNetForCausalLM.from_pretrained, transformers.AutoModel.from_pretrained):
        with pytest.raises(ValueError, match=r"is larger than the [\d,]+ numbers in model\.safetensors$"):
            load(tmp_path)


def test_an_untied_head_is_not_native(model: Any, tmp_path: Path) -> None:
    change(tmp_path, tie_word_embeddings=False)
    message = r"separate weights, .* load it with fftnet.hf.FFTNetForCausalLM"
    with pytest.raises(CheckpointError, match=message):
        FFTNet.from_pretrained(tmp_path)


def test_a_model_of_the_other_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="a bidirectional model can't write: take FFTNetForMaskedLM"):
        FFTNetForCausalLM(FFTNetConfig(causal=False))
    with pytest.raises(ValueError, match="a causal model sees no later token: take FFTNetForCausalLM"):
        FFTNetForMaskedLM(FFTNetConfig())
    encoder = FFTNetModel(FFTNetConfig(causal=False, **SIZES))
    assert encoder(tokens(1, 3)).get(CACHE_NAME) is None
    with pytest.raises(ValueError, match="a bidirectional model has no state"):
        encoder(tokens(1, 3), **{CACHE_NAME: FFTNetCache(FFTNetConfig(**SIZES))})


def test_a_cache_of_another_batch_or_model_is_refused(model: Any) -> None:
    cache = model(tokens(2, 5))[CACHE_NAME]
    with pytest.raises(ValueError, match=r"^the cache has 2 rows, the tokens 3: cache.batch_repeat_inter"):
        model(tokens(3, 2), **{CACHE_NAME: cache})
    wide = FFTNetForCausalLM(FFTNetConfig(vocab_size=VOCAB, d_model=16, num_layers=2))
    with pytest.raises(ValueError, match=r"^the state is of another model: spectrum of layer 0 holds"):
        wide(tokens(2, 2), **{CACHE_NAME: cache})
    with pytest.raises(ValueError, match=r"^the state is of another model: it has 2 layers, not 1"):
        FFTNetForCausalLM(FFTNetConfig(**SIZES))(tokens(2, 2), **{CACHE_NAME: cache})
    with pytest.raises(ValueError, match=r"^the cache must be an FFTNetCache, got a DynamicCache: leave it"):
        model(tokens(2, 2), **{CACHE_NAME: transformers.DynamicCache()})


def test_a_mask_of_another_shape_is_refused_and_leaves_the_cache_unchanged(model: Any) -> None:
    with pytest.raises(ValueError, match=r"^attention_mask must be of shape \(2, 5\), as .*, got \(2, 4\)$"):
        model(tokens(2, 5), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"must be of shape \(2, 5\), as .*, got \(2, 1, 5, 5\)$"):
        model(tokens(2, 5), torch.ones(2, 1, 5, 5))
    cache = model(tokens(2, 5))[CACHE_NAME]
    before = cache.state
    with pytest.raises(ValueError, match=r"must be of shape \(2, 3\) or \(2, 8\), as .*, got \(2, 5\)$"):
        model(tokens(2, 3), torch.ones(2, 5), **{CACHE_NAME: cache})
    assert (cache.state, cache.get_seq_length()) == (before, 5)
    model(tokens(2, 3), torch.ones(2, 8), **{CACHE_NAME: cache})
    with pytest.raises(ValueError, match="attention_mask must be of shape"):
        FFTNetForSequenceClassification(FFTNetConfig(**SIZES))(tokens(2, 3), torch.ones(2, 4))


def test_wrong_ids_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match=f"id {VOCAB} lies outside the vocabulary of {VOCAB}"):
        model(torch.tensor([[VOCAB]]))
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model()


def test_a_folder_without_a_tokenizer_is_refused(model: Any, tmp_path: Path) -> None:
    for load in (transformers.AutoTokenizer.from_pretrained, FFTNetTokenizer.from_pretrained):
        with pytest.raises(TokenizerError, match="has no tokenizer: put back the tokenizer files that were"):
            load(tmp_path)


def test_no_more_tokens_are_taken_back_than_were_recorded(model: Any) -> None:
    cache = model(tokens(2, 5))[CACHE_NAME]
    with pytest.raises(ValueError, match=r"^the cache can take back 0 tokens, not 1: call activate_past_re"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="crop takes 0 or a negative number of tokens, got 4"):
        cache.crop(4)
    assert write(model, tokens(2, 8), max_new_tokens=2, **{CACHE_NAME: cache}).shape == (2, 10)
