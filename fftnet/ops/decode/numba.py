"""The decode step's kernels: what stands between its matrix products, in two calls a layer.

At one token a call costs more than its arithmetic, so these do in two what takes fifty small operations. The
loops over channels are plain ones here: there is no recurrence, so nothing has to stay in registers.
See ``fftnet.ops.cpu`` for how to read kernels. A work item is one row of the batch.
"""

import numpy as np
import torch
from torch import Tensor

from fftnet.ops.causal_mix.parameters import HeadParameters
from fftnet.ops.cpu.compile import jit
from fftnet.ops.cpu.threads import threads


@jit
def _gate(  # pyright: ignore
    first, last, x, projected, weight, past, mean, count, context, values, new_past, new_mean, new_count
):
    D = x.shape[1]
    P = past.shape[1]
    one = x.dtype.type(1)
    for b in range(first, last):
        new_count[b] = count[b] + 1
        share = one / x.dtype.type(new_count[b])
        for c in range(D):
            new_mean[b, c] = mean[b, c] + share * (x[b, c] - mean[b, c])
            context[b, c] = new_mean[b, c]
            context[b, D + c] = x[b, c]
        for c in range(D):
            key = weight[c, P] * projected[b, c]
            value = weight[D + c, P] * projected[b, D + c]
            for i in range(P):
                key += weight[c, i] * past[b, i, c]
                value += weight[D + c, i] * past[b, i, D + c]
            values[b, c] = key * value
        for i in range(P):
            new_past[b, i] = past[b, i + 1] if i + 1 < P else projected[b]


@jit
def _mix(  # pyright: ignore
    first, last, values, filter_, decay, frequency, bias, readout, state, eps, mixed, new_state
):
    H = filter_.shape[1]
    F = filter_.shape[2]
    d = values.shape[2]
    zero = values.dtype.type(0)
    for h in range(H):
        for k in range(F):
            radius = np.exp(-decay[h, k])
            pole_r = radius * np.cos(frequency[h, k])
            pole_i = radius * np.sin(frequency[h, k])
            # g = sqrt(1 - |lambda|^2), without the loss of digits for slow decays.
            gain = np.sqrt(-np.expm1(-decay[h, k] - decay[h, k]))
            shift = bias[h, k]
            readout_r = readout[h, k, 0]
            readout_i = readout[h, k, 1]
            for b in range(first, last):
                f = filter_[b, h, k] * gain
                for c in range(d):
                    # Z = lambda Z + v
                    old_r = state[b, k, 0, h, c]
                    old_i = state[b, k, 1, h, c]
                    z_r = pole_r * old_r - pole_i * old_i + values[b, h, c]
                    z_i = pole_r * old_i + pole_i * old_r
                    new_state[b, k, 0, h, c] = z_r
                    new_state[b, k, 1, h, c] = z_i
                    # A = relu(|f Z| + bias) f Z / max(|f Z|, eps), then y = Re sum_k C_k A_k
                    magnitude = abs(f) * np.sqrt(z_r * z_r + z_i * z_i)
                    raised = magnitude + shift
                    raised = zero if raised <= zero else raised
                    scale = f * raised / (eps if magnitude <= eps else magnitude)
                    out = scale * (readout_r * z_r - readout_i * z_i)
                    mixed[b, h, c] = out if k == 0 else mixed[b, h, c] + out


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [x if x.is_contiguous() else x.contiguous() for x in tensors]


def gate_step(
    x: Tensor, projected: Tensor, conv_weight: Tensor, conv_state: Tensor, mean: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See ``fftnet.ops.decode.gate_step``; all floating tensors have one dtype."""
    inputs = _contiguous(x, projected, conv_weight, conv_state, mean, count)
    outputs = (
        torch.empty_like(inputs[1]),
        torch.empty_like(inputs[0]),
        torch.empty_like(inputs[3]),
        torch.empty_like(inputs[4]),
        torch.empty_like(inputs[5]),
    )
    arrays = [t.numpy() for t in (*inputs, *outputs)]
    threads.run(_gate, x.shape[0], conv_state.numel() + x.numel(), *arrays)
    return outputs


def mix_step(
    values: Tensor, filter_: Tensor, parameters: HeadParameters, state: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``fftnet.ops.decode.mix_step``; all tensors have one dtype."""
    inputs = _contiguous(values, filter_, *parameters, state)
    mixed = torch.empty_like(inputs[0])
    new_state = torch.empty_like(inputs[6])
    arrays = [t.numpy() for t in inputs]
    bound = arrays[0].dtype.type(eps)
    threads.run(_mix, values.shape[0], state.numel(), *arrays, bound, mixed.numpy(), new_state.numpy())
    return mixed, new_state
