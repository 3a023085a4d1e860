"""Delta mixing in real numbers and as one loop over the tokens, for exported programs.

``scan`` becomes the loop of the runtime, so that the number of tokens stays open. Outside of an export, this
is the backend of ``torch.func``, which has no rule for a loop: there it is the one of ``torch``.
"""

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from fftnet.ops.delta_mix import eager


def delta_mix(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.delta_mix.delta_mix``."""
    if not torch.compiler.is_exporting():
        return eager.delta_mix(*tensors)
    values, key, filter_, erase, clock, decay, frequency, state = tensors

    def read_token(z: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the state (B, H, 2, F, d) after a token, and its read-out (B, H, d)."""
        value, key, filter_, erase, clock = token
        time_BH1 = clock[..., None]
        radius_BHF = torch.exp(-time_BH1 * decay)
        angle_BHF = time_BH1 * frequency
        real_BH1F1 = (radius_BHF * angle_BHF.cos())[:, :, None, :, None]
        imag_BH1F1 = (radius_BHF * angle_BHF.sin())[:, :, None, :, None]
        # i Z: the real plane is minus the imaginary one.
        turned_BH2Fd = torch.cat([-z[:, :, 1:], z[:, :, :1]], dim=2)
        z = z * real_BH1F1 + turned_BH2Fd * imag_BH1F1
        found_BHd = (key[..., None] * z).sum(dim=(2, 3))
        new_BHd = value - erase[..., None] * found_BHd
        z = z + key[..., None] * new_BHd[:, :, None, None]
        # Copies: an output of the loop must not be one of its inputs.
        return z + 0.0, (filter_[..., None] * z).sum(dim=(2, 3)) + 0.0

    # The conjugate, so that the real part of a product is a plain sum.
    sign_21 = torch.tensor([[1.0], [-1.0]], dtype=filter_.dtype, device=filter_.device)
    streams = (values, key, filter_ * sign_21, erase, clock)
    last, mixed_TBHd = scan(read_token, state, tuple(x.movedim(1, 0).contiguous() for x in streams), dim=0)
    return mixed_TBHd.movedim(0, 1), last
