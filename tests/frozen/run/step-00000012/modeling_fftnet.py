"""Leads Transformers to the classes of the package: pip install fftnet[hf]."""

from fftnet.hf import FFTNetConfig, FFTNetModel, FFTNetForCausalLM, FFTNetForMaskedLM, FFTNetForSequenceClassification, FFTNetForTokenClassification
