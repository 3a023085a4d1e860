"""Sides of comparisons between encoders, which may see all tokens.

Causal mixers are encoders, too: their last token has seen the whole text.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import baselines
from benchmarks.baselines import ATTENTION, COPY, EAGER, PAIR, Calls, call
from benchmarks.measure import OURS
from fftnet.model.classifier import FFTNetForSequenceClassification, SequenceClassifierConfig
from fftnet.model.mixers import MIXERS, build_mixer
from fftnet.model.mixers.spectral import SpectralConfig, SpectralMixer
from fftnet.ops import numerics

FNET = "FNet"
OURS_CAUSAL = "ours, causal"

MIXERS_OF = {
    OURS: "spectral",
    OURS_CAUSAL: "addressed_spectral",
    ATTENTION: "bidirectional_attention",
    FNET: "fnet",
}
"""Side to the mixer of all its layers."""
ANCHORS = 129
"""Anchor frequencies of the bidirectional filter, those of the published layer at 256 tokens."""
CLASSES = 10


def eager_spectral_mix(mixer: SpectralMixer, x_BTD: Tensor) -> Tensor:
    """Compute the bidirectional layer as the paper writes it, with the whole complex transform."""
    tokens = x_BTD.shape[1]
    heads = mixer.num_heads
    # The upper half of the complex spectrum mirrors the lower one, and so do filter and bias.
    k = torch.arange(tokens)
    mirrored = torch.minimum(k, tokens - k)
    bins = tokens // 2 + 1
    filter_BHF = numerics.interpolate_anchors(mixer.filter(x_BTD.mean(dim=1)), bins)[..., mirrored]
    bias_HF = numerics.interpolate_anchors(mixer.activation(), bins)[..., mirrored]
    spectrum_BFHd = torch.fft.fft(x_BTD, dim=1, norm="ortho").unflatten(-1, (heads, -1))
    z = spectrum_BFHd * filter_BHF.transpose(1, 2)[..., None]
    # modReLU: shrink the magnitude, keep the phase.
    magnitude = z.abs()
    z = z * (torch.relu(magnitude + bias_HF.T[..., None]) / magnitude.clamp(min=mixer.activation.eps))
    return torch.fft.ifft(z.flatten(2), dim=1, norm="ortho").real


def spectral_mixer(width: int, heads: int) -> SpectralMixer:
    """Return FFTNet's bidirectional mixer."""
    return SpectralMixer(width, heads, SpectralConfig(num_anchors=ANCHORS))


def bare(width: int, heads: int, batch: int, tokens: int, work: str) -> Calls:
    """Return the calls of the paper's mixer, which has no projections, and of others without them."""
    x_BTD = torch.randn(batch, tokens, width)
    ours = spectral_mixer(width, heads)
    fnet = build_mixer(MIXERS_OF[FNET], width, heads)

    # Without projections queries, keys and values are the tokens themselves.
    def bare_attention(x: Tensor) -> Tensor:
        heads_BHTd = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads_BHTd, heads_BHTd, heads_BHTd).transpose(1, 2).flatten(2)

    return {
        OURS: call(ours, [x_BTD], work, ours),
        EAGER: call(lambda x: eager_spectral_mix(ours, x), [x_BTD], work, ours),
        ATTENTION: call(bare_attention, [x_BTD], work),
        FNET: call(fnet, [x_BTD], work),
        PAIR: call(baselines.fourier_pair, [x_BTD], work),
        COPY: baselines.memory_pass(x_BTD.detach(), work),
    }


def mixers(width: int, heads: int, batch: int, tokens: int, work: str) -> Calls:
    """Return the calls of whole mixers with their projections, and of the bare transform."""
    x_BTD = torch.randn(batch, tokens, width)
    calls = {}
    for side, name in MIXERS_OF.items():
        mixer = build_mixer(name, width, heads)
        calls[side] = call(mixer, [x_BTD], work, mixer)
    return calls | {PAIR: call(baselines.fourier_pair, [x_BTD], work)}


def classifier(side: str, width: int, heads: int, layers: int) -> FFTNetForSequenceClassification:
    """Return a classifier of bytes whose layers all have the mixer of the side."""
    name = MIXERS_OF[side]
    return FFTNetForSequenceClassification(
        SequenceClassifierConfig(
            vocab_size=baselines.VOCABULARY,
            num_classes=CLASSES,
            d_model=width,
            num_heads=heads,
            num_layers=layers,
            mixers=(name,),
            # Causal mixers work in causal models; the others see the whole text.
            causal=MIXERS[name].causal,
        )
    )


def train(width: int, heads: int, layers: int, batch: int, tokens: int) -> Calls:
    """Return the training steps of classifiers of whole texts."""
    return {side: _train_step(classifier(side, width, heads, layers), batch, tokens) for side in MIXERS_OF}


def _train_step(model: FFTNetForSequenceClassification, batch: int, tokens: int) -> Callable[[], object]:
    tokens_BT = torch.randint(0, baselines.VOCABULARY, (batch, tokens))
    class_B = torch.randint(0, CLASSES, (batch,))
    return baselines.step_of(model, lambda: F.cross_entropy(model(tokens_BT), class_B))
