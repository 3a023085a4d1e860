"""The same model on both sides of a folder: native, and of Transformers."""

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
    """A randomised native model, and what Transformers makes of its files."""
    native = make(**fields).to(dtype)
    native.save_pretrained(folder)
    auto = AutoModelForCausalLM if native.config.causal else AutoModelForMaskedLM
    model = auto.from_pretrained(folder).eval()
    # The library leaves weights where they lie in the file. What matrix products round to depends on whether
    # that is a round address, also within one library.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return native, model


def write(model: Any, ids: Tensor, **settings: Any) -> Any:
    """Generate without an end, padding only where a mask says so, greedily unless told otherwise."""
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0} | settings
    return model.generate(ids, **given)
