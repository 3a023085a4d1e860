"""Transformers' own common tests of models on our classes; see ``peer.py`` for where they come from."""

import sys
import unittest
import warnings
from importlib import import_module
from typing import Any

import peer
import pytest
import torch
from transformers.models.auto import modeling_auto

import fftnet.hf as hf
from fftnet.model.exchange import LANGUAGE

try:
    sys.path.insert(0, str(peer.fetch()))
except peer.Unavailable as error:
    pytest.skip(f"Transformers' own tests are not run: {error}", allow_module_level=True)
with warnings.catch_warnings():
    # Their marks are those of their own configuration.
    warnings.simplefilter("ignore")
    common: Any = import_module(f"{peer.PACKAGE}.{peer.COMMON.removesuffix('.py')}")

pytestmark = pytest.mark.filterwarnings("default")

MAPPINGS = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
"""Tables by which the tests recognize the kind of a model."""
for auto, names in MAPPINGS.items():
    names[LANGUAGE.model_type] = LANGUAGE.auto_classes[auto]
SKIPS = {
    "test_generation_tester_mixin_inheritance": "the distribution leaves their tests of generate out; ours "
    "are in test_generate.py",
}
"""Reason for a skipped test by its name. All other skips are the library's: no attention weights, experts,
rotary positions or sub-models, or a missing accelerator or package."""


class Sizes:
    """Configurations and inputs that the tests ask for."""

    batch_size = 3
    seq_length = 7
    is_training = True
    hidden_size = 32
    num_hidden_layers = 2

    def __init__(self, causal: bool, mixers: tuple[str, ...] = ()) -> None:
        self.causal = causal
        self.mixers = mixers

    def get_config(self) -> Any:
        return hf.FFTNetConfig(
            vocab_size=99,
            d_model=self.hidden_size,
            num_layers=self.num_hidden_layers,
            num_heads=2,
            causal=self.causal,
            mixers=self.mixers,
            pad_token_id=0,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        ids = torch.randint(1, 99, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Common(common.ModelTesterMixin):
    """Tests of both forms."""

    has_attentions = False
    causal = True
    mixers: tuple[str, ...] = ()

    def setUp(self) -> None:
        name = self._testMethodName  # pyright: ignore[reportAttributeAccessIssue]
        if name in SKIPS:
            raise unittest.SkipTest(SKIPS[name])
        self.model_tester = Sizes(self.causal, self.mixers)


class CausalTest(Common, unittest.TestCase):
    all_model_classes = (
        hf.FFTNetModel,
        hf.FFTNetForCausalLM,
        hf.FFTNetForSequenceClassification,
        hf.FFTNetForTokenClassification,
    )


class HybridTest(Common, unittest.TestCase):
    mixers = ("addressed_spectral", "attention", "causal_spectral")
    all_model_classes = (hf.FFTNetForCausalLM,)


class HybridEncoderTest(Common, unittest.TestCase):
    causal = False
    mixers = ("spectral", "bidirectional_attention")
    all_model_classes = (hf.FFTNetForMaskedLM,)


class EncoderTest(Common, unittest.TestCase):
    causal = False
    all_model_classes = (
        hf.FFTNetModel,
        hf.FFTNetForMaskedLM,
        hf.FFTNetForSequenceClassification,
        hf.FFTNetForTokenClassification,
    )
