"""FFTNet in Hugging Face Transformers: ``pip install '.[hf]'``, then ``import fftnet.hf``.

The import registers the classes: ``AutoModelForCausalLM.from_pretrained`` and the other Auto classes then
read the same folders as ``FFTNet.from_pretrained``. The classes wrap the native modules.
"""

import transformers

from fftnet.hf.cache import FFTNetCache
from fftnet.hf.causal_lm import FFTNetForCausalLM
from fftnet.hf.configuration import ExchangedConfig, FFTNetConfig, FFTNetViTConfig
from fftnet.hf.heads import (
    FFTNetForImageClassification,
    FFTNetForMaskedLM,
    FFTNetForSequenceClassification,
    FFTNetForTokenClassification,
)
from fftnet.hf.modeling import FFTNetModel, FFTNetPreTrainedModel
from fftnet.hf.tokenization import FFTNetTokenizer
from fftnet.model.exchange import IMAGES, LANGUAGE, Family

__all__ = [
    "FFTNetCache",
    "FFTNetConfig",
    "FFTNetForCausalLM",
    "FFTNetForImageClassification",
    "FFTNetForMaskedLM",
    "FFTNetForSequenceClassification",
    "FFTNetForTokenClassification",
    "FFTNetModel",
    "FFTNetPreTrainedModel",
    "FFTNetTokenizer",
    "FFTNetViTConfig",
]


def _register(family: Family, config_class: type[ExchangedConfig]) -> None:
    transformers.AutoConfig.register(family.model_type, config_class, exist_ok=True)
    for auto, name in family.auto_classes.items():
        # AutoConfig is registered above, by its name instead of a configuration class.
        if auto != "AutoConfig":
            getattr(transformers, auto).register(config_class, globals()[name], exist_ok=True)


_register(LANGUAGE, FFTNetConfig)
_register(IMAGES, FFTNetViTConfig)
transformers.AutoTokenizer.register(FFTNetConfig, fast_tokenizer_class=FFTNetTokenizer, exist_ok=True)
