"""Both FFTNet layers in plain PyTorch, for reading, with the parameter names of the package's faster mixers.

Steps as in docs/maths.md; B batch, T tokens, D width, H heads, d = D / H per head, F frequency bins."""

import torch
from torch import Tensor, nn


def modrelu(z: Tensor, bias: Tensor, eps: float) -> Tensor:  # the phase stays (section 1, step 6)
    return torch.relu(z.abs() + bias) * z / z.abs().clamp(min=eps)


def as_complex(planes: Tensor) -> Tensor:  # real and imaginary plane: (..., 2, F) to (..., F)
    return torch.complex(*planes.unbind(dim=-2))


def rms_norm(z: Tensor) -> Tensor:  # over the last dimension
    return z * torch.rsqrt(z.abs().square().mean(dim=-1, keepdim=True) + 1e-6)


class AdaptiveFilter(nn.Module):
    """``W_base + tanh(MLP(context))`` (section 1, steps 3 and 4)."""

    def __init__(self, width: int, hidden: int, base: Tensor) -> None:
        super().__init__()
        self.base_filter = nn.Parameter(base.clone())
        self.modulation = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, base.numel()))

    def forward(self, context: Tensor) -> Tensor:
        return self.base_filter + self.modulation(context).unflatten(-1, self.base_filter.shape).tanh()


class Bidirectional(nn.Module):
    """FFTNet (bidirectional), the paper's layer (section 1), for sequences of exactly T tokens."""

    def __init__(self, d_model: int, num_heads: int, num_tokens: int) -> None:
        super().__init__()
        ones = torch.ones(num_heads, num_tokens // 2 + 1)
        self.filter = AdaptiveFilter(d_model, d_model, ones)
        self.activation = nn.ParameterDict({"bias": -0.1 * ones})

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x.unflatten(2, (len(self.filter.base_filter), -1)), dim=1, norm="ortho")
        filtered = self.filter(x.mean(dim=1)).mT[..., None] * spectrum  # steps 2 to 5: (B, F, H, d)
        activated = modrelu(filtered, self.activation["bias"].mT[..., None], eps=1e-3)  # step 6
        return torch.fft.irfft(activated.flatten(2), n=x.shape[1], dim=1, norm="ortho")  # step 7


class Causal(nn.Module):
    """FFTNet (causal), the default layer (section 3), as a recurrence over the tokens."""

    def __init__(self, d_model: int, num_heads: int, num_bins: int = 16, context_dim: int = 32) -> None:
        super().__init__()
        ones = torch.ones(num_heads, num_bins)
        base = torch.stack([ones, 0 * ones], dim=1)  # (H, 2, F): complex 1 as real and imaginary plane
        self.project_in = nn.Linear(d_model, d_model + base.numel(), bias=False)
        self.conv_weight = nn.Parameter(torch.rand(d_model + base.numel(), 4))
        self.project_context = nn.Linear(d_model, context_dim, bias=False)
        self.project_filter = nn.Linear(d_model, base.numel(), bias=False)
        self.key = nn.ParameterDict({"base_key": base})
        self.filter = AdaptiveFilter(2 * context_dim, context_dim, base)
        self.activation = nn.ParameterDict({"bias": 0 * ones})
        self.clock = nn.Linear(d_model, num_heads)
        self.transform = nn.ParameterDict({"log_decay": -ones, "frequency": torch.rand_like(ones)})
        self.norm_weight = nn.Parameter(torch.ones(num_heads, d_model // num_heads))
        self.project_gate = nn.Linear(d_model, d_model, bias=False)
        self.project_out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        width, planes = x.shape[2], self.key["base_key"].shape
        padded = nn.functional.pad(self.project_in(x).mT, (3, 0))  # step 1: keys also see tokens before
        convolved = nn.functional.conv1d(padded, self.conv_weight[:, None], groups=len(self.conv_weight)).mT
        values = nn.functional.silu(convolved[..., :width]).unflatten(-1, (planes[0], -1))  # (B, T, H, d)
        # Step 2: write keys (B, T, H, F); the gain makes the size of the spectrum independent of the decay.
        decay, frequency = self.transform["log_decay"].exp(), self.transform["frequency"]
        raw_key = rms_norm(as_complex(convolved[..., width:].unflatten(-1, planes)))
        key = torch.sqrt(1 - torch.exp(-2 * decay)) * (as_complex(self.key["base_key"]) + raw_key)
        query = rms_norm(as_complex(self.project_filter(x).unflatten(-1, planes)))
        clock = nn.functional.softplus(self.clock(x))  # time step of each token, (B, T, H)
        projected = self.project_context(x)
        mean, spectrum, outputs = torch.zeros_like(projected[:, 0]), torch.zeros(()), []
        for t in range(x.shape[1]):
            # Step 3: the spectrum of the prefix (B, H, F, d) decays and rotates, then the token is added.
            rotate = torch.exp(clock[:, t, :, None] * torch.complex(-decay, frequency))
            spectrum = rotate[..., None] * spectrum + key[:, t, ..., None] * values[:, t, :, None]
            # Steps 4 and 5: a read filter (B, H, F) from the running mean, the token and its query.
            mean = mean + (projected[:, t] - mean) / min(t + 1, 256)
            modulated = as_complex(self.filter(torch.cat([mean, projected[:, t]], dim=-1)))
            read_filter = modrelu(modulated + query[:, t], self.activation["bias"], eps=0.03)
            outputs.append((read_filter[..., None] * spectrum).real.sum(dim=2))  # step 6: (B, H, d)
        gate = torch.sigmoid(self.project_gate(x)).unflatten(-1, (planes[0], -1))  # step 7
        return self.project_out((rms_norm(torch.stack(outputs, dim=1)) * self.norm_weight * gate).flatten(2))


if __name__ == "__main__":
    x = torch.randn(2, 16, 64)
    changed = x.index_fill(1, torch.tensor([10]), 1.0)  # another token at position 10
    for layer in (Bidirectional(64, 4, num_tokens=16), Causal(64, 4)):
        moved = (layer(changed) - layer(x)).abs().amax(dim=(0, 2)).nonzero().flatten().tolist()
        print(f"{type(layer).__name__}: {tuple(layer(x).shape)}, outputs that depend on token 10: {moved}")
