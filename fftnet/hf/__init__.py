"""FFTNet in Hugging Face Transformers: ``pip install '.[hf]'``, then ``import fftnet.hf``.

The import registers the classes: ``AutoModelForCausalLM.from_pretrained`` and the other Auto classes then
read the same folders as ``FFTNet.from_pretrained``. The classes wrap the native modules.
"""

import transformers

from fftnet.hf.cache import FFTNetCache
from fftnet.hf.causal_lm import FFTNetForCausalLM
from fftnet.hf.configuration import FFTNetConfig, FFTNetViTConfig
from fftnet.hf.heads import (
    FFTNetForImageClassification,
    FFTNetForMaskedLM,
    FFTNetForSequenceClassification,
    FFTNetForTokenClassification,
)
from fftnet.hf.modeling import FFTNetModel, FFTNetPreTrainedModel
from fftnet.hf.tokenization import FFTNetTokenizer
from fftnet.model.exchange import IMAGES, LANGUAGE

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


for _family, _config in ((LANGUAGE, FFTNetConfig), (IMAGES, FFTNetViTConfig)):
    transformers.AutoConfig.register(_family.model_type, _config, exist_ok=True)
    for _auto, _name in _family.auto_classes.items():
        # AutoConfig is registered above, by its name instead of a configuration class.
        if _auto != "AutoConfig":
            getattr(transformers, _auto).register(_config, globals()[_name], exist_ok=True)
transformers.AutoTokenizer.register(FFTNetConfig, fast_tokenizer_class=FFTNetTokenizer, exist_ok=True)
