"""The modules: components, mixers, the layer, the backbone, the model, and functions on its states."""

from fftnet.model.backbone import Backbone
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.config import BackboneConfig, FFTNetConfig
from fftnet.model.fftnet_layer import FFTNetLayer
from fftnet.model.fftnet_model import FFTNet
from fftnet.model.pretrained import PretrainedModel, reset_parameters
from fftnet.model.state import State, concat_states, expand_state, load_state, save_state, select_state
from fftnet.model.vit import FFTNetViT, ViTConfig, vit_config

__all__ = [
    "Backbone",
    "BackboneConfig",
    "FFTNet",
    "FFTNetConfig",
    "FFTNetForSequenceClassification",
    "FFTNetLayer",
    "FFTNetViT",
    "PretrainedModel",
    "SequenceClassifierConfig",
    "State",
    "ViTConfig",
    "concat_states",
    "expand_state",
    "load_state",
    "reset_parameters",
    "save_state",
    "select_state",
    "vit_config",
]
