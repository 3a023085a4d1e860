"""The state of all layers in few tensors."""

from typing import NamedTuple

import torch
from models import make, tokens
from torch import Tensor

from fftnet.export.packing import Packing


def test_layers_that_are_alike_share_tensors_and_get_their_own_back() -> None:
    model = make(mixers=("addressed_spectral", "attention"), num_layers=4)
    with torch.no_grad():
        _, state = model.prefill(tokens(3, 5))
    packing = Packing(model.init_state(1, "meta"))
    packed = {(entry.field, entry.layers): entry for entry in packing.tensors}
    fields = [("spectrum", (0, 2)), ("mean", (0, 2)), ("count", (0, 2)), ("conv_state", (0, 2))]
    for layer in (1, 3):
        fields += [(field, (layer,)) for field in ("keys", "values", "count", "filled")]
    assert sorted(packed) == sorted(fields)
    assert [entry.layers for entry in packing.tensors] == sorted(entry.layers for entry in packing.tensors)
    assert {entry.field: entry.grows for entry in packing.tensors if entry.grows} == {"keys": 2, "values": 2}
    tensors = packing.pack(state)
    spectrum = tensors[packing.tensors.index(packed["spectrum", (0, 2)])]
    assert spectrum.shape == (3, 2 * 2, 2, 16, 4)
    torch.testing.assert_close(spectrum[:, 2:], state[2].spectrum)
    for layer, expected in zip(packing.unpack(tensors), state, strict=True):
        assert type(layer) is type(expected)
        torch.testing.assert_close(layer, expected, rtol=0, atol=0)


class Counts(NamedTuple):
    parity: Tensor
    shape: Tensor


def test_numbers_that_no_state_calls_common_stay_each_layers_own() -> None:
    state = (Counts(torch.tensor([1]), torch.zeros(1, 2)), Counts(torch.tensor([0]), torch.ones(1, 3)))
    packing = Packing(state)
    assert len(packing.tensors) == 4
    for layer, expected in zip(packing.unpack(packing.pack(state)), state, strict=True):
        torch.testing.assert_close(layer, expected)
