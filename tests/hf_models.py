"""The same model natively and in Transformers."""

from pathlib import Path
from typing import Any

import torch
from models import make
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils import logging

import fftnet.hf  # registers the classes
from fftnet import FFTNet

logging.disable_progress_bar()
assert fftnet.hf.__all__


def both(folder: Path, dtype: torch.dtype = torch.float64, **fields: Any) -> tuple[FFTNet, Any]:
    """Return a native model with random weights, and the model that Transformers loads from its files."""
    native = make(**fields).to(dtype)
    native.save_pretrained(folder)
    auto = AutoModelForCausalLM if native.config.causal else AutoModelForMaskedLM
    model = auto.from_pretrained(folder).eval()
    # The library maps weights from the file. Matrix products round differently at addresses that are not
    # aligned, so the weights are copied.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return native, model


def write(model: Any, ids: Tensor, **settings: Any) -> Any:
    """Generate without an end of text, greedily by default."""
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0} | settings
    return model.generate(ids, **given)
