"""FFTNet in Hugging Face Transformers: ``pip install fftnet[hf]``, then ``import fftnet.hf``.

The import registers the classes, after which ``AutoModelForCausalLM.from_pretrained`` and its kin read and
write the folders that ``FFTNet.from_pretrained`` does. They wrap the native modules: nothing is computed
twice.
"""

import transformers

from fftnet.hf.cache import FFTNetCache
from fftnet.hf.causal_lm import FFTNetForCausalLM
from fftnet.hf.configuration import FFTNetConfig
from fftnet.hf.heads import FFTNetForMaskedLM, FFTNetForSequenceClassification, FFTNetForTokenClassification
from fftnet.hf.modeling import FFTNetModel, FFTNetPreTrainedModel
from fftnet.hf.tokenization import FFTNetTokenizer
from fftnet.model.exchange import AUTO_CLASSES, MODEL_TYPE

__all__ = [
    "FFTNetCache",
    "FFTNetConfig",
    "FFTNetForCausalLM",
    "FFTNetForMaskedLM",
    "FFTNetForSequenceClassification",
    "FFTNetForTokenClassification",
    "FFTNetModel",
    "FFTNetPreTrainedModel",
    "FFTNetTokenizer",
]


def _register() -> None:
    transformers.AutoConfig.register(MODEL_TYPE, FFTNetConfig, exist_ok=True)
    transformers.AutoTokenizer.register(FFTNetConfig, fast_tokenizer_class=FFTNetTokenizer, exist_ok=True)
    for auto, name in AUTO_CLASSES.items():
        if auto != "AutoConfig":
            getattr(transformers, auto).register(FFTNetConfig, globals()[name], exist_ok=True)


_register()
