"""No tensor that does not fit gets past an operator's checks, on any backend, eager or compiled.

The kernels know no bounds, so their walk runs in processes of their own on guarded memory (guarded.py), where
an access past the end of an array ends the process. The control is the same walk without the checks.
"""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from guarded import walk, wrong
from operators import CAUSAL_MIX, GATE_STEP, GATED_CONV, KEYED_MIX, OF_THE_SAME_CODE, OPERATORS, Operator

from fftnet.ops import dispatch
from fftnet.ops.checks import Signature

GUARDED = Path(__file__).parents[1] / "guarded.py"


def label(value: object) -> str | None:
    return f"{value.name}({', '.join(value.make())})" if isinstance(value, Operator) else None


@pytest.mark.parametrize("backend", ["numba", "triton"])
def test_kernels_touch_nothing_but_their_arrays_and_without_the_checks_they_do(backend: str) -> None:
    pytest.importorskip(backend)
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if backend == "triton" else {})
    command = [sys.executable, str(GUARDED), backend]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    operators = [x for x in OPERATORS if x not in OF_THE_SAME_CODE]
    if backend == "triton":
        operators = [CAUSAL_MIX, KEYED_MIX]
    assert list(report) == [label(operator) for operator in operators]
    for name, result in report.items():
        assert result["checked"] == {"exit": 0, "problems": []}, name
        assert result["unchecked"]["exit"] == -signal.SIGSEGV, name


@pytest.mark.parametrize("operator", OPERATORS, ids=label)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_portable_forms_refuse_the_same(operator: Operator, backend: str) -> None:
    assert walk(operator, backend) == []


@pytest.mark.parametrize("operator", OPERATORS, ids=label)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_without_the_checks_portable_forms_do_not(
    operator: Operator, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Signature, "check", lambda self, *tensors, one_dtype=False: None)
    # What is remembered of calls without checks would pass for checked afterwards.
    monkeypatch.setattr(operator.backends, "_selected", {})
    assert walk(operator, backend)


def refusal(operator: Operator, call: Any, inputs: list[torch.Tensor]) -> str:
    with pytest.raises(ValueError, match=operator.name) as caught:
        call(*inputs)
    return str(caught.value)


@pytest.mark.parametrize("operator", OPERATORS, ids=label)
def test_one_mistake_has_one_message(operator: Operator) -> None:
    torch.compiler.reset()
    inputs = operator.make()
    compiled = torch.compile(operator.call, backend="eager")
    compiled(*inputs.values())
    last = list(inputs)[-1]
    for words, _, bad in list(wrong(inputs[last], strict=False))[:3]:
        tensors = list((inputs | {last: bad}).values())
        messages = {
            refusal(operator, functools.partial(operator.call, backend=backend), tensors)
            for backend in operator.backends.available()
        }
        assert len(messages) == 1, words
        assert refusal(operator, compiled, tensors) in messages


def test_messages_name_argument_expected_and_got() -> None:
    inputs = CAUSAL_MIX.make()
    state = inputs["state"]
    sentence = "causal_mix: state must have shape (2, 4, 2, 2, 3) (B, F, 2, H, d), got (1, 4, 2, 2, 3)"
    assert refusal(CAUSAL_MIX, CAUSAL_MIX.call, [*list(inputs.values())[:-1], state[:1]]) == sentence
    sentence = "causal_mix: state must have a real floating dtype, got torch.int64"
    assert refusal(CAUSAL_MIX, CAUSAL_MIX.call, [*list(inputs.values())[:-1], state.long()]) == sentence
    sentence = "causal_mix: state must be on cpu like values, got meta"
    assert refusal(CAUSAL_MIX, CAUSAL_MIX.call, [*list(inputs.values())[:-1], state.to("meta")]) == sentence
    *rest, count = GATE_STEP.make().values()
    sentence = "gate_step: count must have dtype torch.int64, got torch.int32"
    assert refusal(GATE_STEP, GATE_STEP.call, [*rest, count.int()]) == sentence
    *rest, _ = GATED_CONV.make().values()
    sentence = "gated_conv: conv_state must have shape (2, 3, 16) (B, P, C), got (1, 3, 16)"
    assert refusal(GATED_CONV, GATED_CONV.call, [*rest, GATED_CONV.make()["conv_state"][:1]]) == sentence
    sentence = "gated_conv: conv_state must be a tensor, got None"
    assert refusal(GATED_CONV, GATED_CONV.call, [*rest, None]) == sentence  # pyright: ignore


@pytest.mark.parametrize("operator", [x for x in OPERATORS if "step" not in x.name], ids=label)
def test_an_empty_sequence_is_a_sentence(operator: Operator) -> None:
    streams = ("x", "values", "filter_", "raw_key")
    inputs = [x[:, :0] if name in streams else x for name, x in operator.make().items()]
    sentence = "needs at least one token, got a sequence of length 0"
    for backend in operator.backends.available():
        with pytest.raises(ValueError, match=sentence):
            operator.call(*inputs, backend=backend)


@pytest.mark.parametrize("operator", OPERATORS, ids=label)
def test_an_empty_batch_is_a_sentence(operator: Operator) -> None:
    inputs = list(operator.make().values())
    for backend in operator.backends.available():
        with pytest.raises(ValueError, match="needs at least one row, got a batch of 0"):
            operator.call(inputs[0][:0], *inputs[1:], backend=backend)


def test_no_head_and_no_bin_are_sentences() -> None:
    inputs = CAUSAL_MIX.make()
    with pytest.raises(ValueError, match="causal_mix needs a size H of at least 1, got 0"):
        CAUSAL_MIX.call(*(inputs | {"values": inputs["values"][:, :, :0]}).values())
    with pytest.raises(ValueError, match="causal_mix needs a size F of at least 1, got 0"):
        CAUSAL_MIX.call(*(inputs | {"filter_": inputs["filter_"][..., :0]}).values())


def test_the_switch_changes_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = CAUSAL_MIX.make()
    tensors = [*list(inputs.values())[:-1], inputs["state"][:1]]
    expected = refusal(CAUSAL_MIX, CAUSAL_MIX.call, tensors)
    for backend in CAUSAL_MIX.backends.available():
        with dispatch.use_backend(backend):
            assert refusal(CAUSAL_MIX, CAUSAL_MIX.call, tensors) == expected
