"""Tensors that do not fit are refused by every operator on every backend, eager or compiled.

Kernels check no bounds. So they run in separate processes on guarded memory (guarded.py), where an access
past the end of an array ends the process. As a control the same runs without the checks.
"""

import functools
import json
import signal
from typing import Any

import pytest
import torch
from commands import python
from guarded import unchecked, walk, wrong
from operators import CONTEXT_STEP, KEYED_MIX, LONG, OPERATORS, SAME_CHECKS, SHORT_CONV, Operator

from fftnet.ops.checks import Signature


@pytest.mark.parametrize("backend", ["numba", "triton"])
def test_kernels_touch_nothing_but_their_arrays_and_without_the_checks_they_do(backend: str) -> None:
    pytest.importorskip(backend)
    environment = {"TRITON_INTERPRET": "1"} if backend == "triton" else {}
    report = json.loads(python("tests/guarded.py", backend, environment=environment).stdout)
    operators = [x for x in OPERATORS if x not in SAME_CHECKS]
    if backend == "triton":
        operators = [KEYED_MIX]
    assert list(report) == [operator.name for operator in operators]
    for name, result in report.items():
        assert result["checked"] == {"exit": 0, "problems": []}, name
        assert result["unchecked"]["exit"] == -signal.SIGSEGV, name


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_portable_forms_refuse_the_same(operator: Operator, backend: str) -> None:
    assert walk(operator, backend) == []


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_without_the_checks_portable_forms_do_not(
    operator: Operator, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Signature, "check", unchecked)
    # Calls that are remembered now would count as checked afterwards.
    monkeypatch.setattr(operator.backends, "_remembered", {})
    assert walk(operator, backend)


def refusal(operator: Operator, call: Any, inputs: list[torch.Tensor]) -> str:
    with pytest.raises(ValueError, match=operator.name) as caught:
        call(*inputs)
    return str(caught.value)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
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


MESSAGES = [
    (
        KEYED_MIX,
        lambda state: state[:1],
        "keyed_mix: state must have shape (2, 2, 2, 4, 3) (B, H, 2, F, d), got (1, 2, 2, 4, 3)",
    ),
    (KEYED_MIX, lambda x: x.long(), "keyed_mix: state must have a real floating dtype, got torch.int64"),
    (KEYED_MIX, lambda x: x.to("meta"), "keyed_mix: state must be on cpu like values, got meta"),
    (CONTEXT_STEP, lambda x: x.int(), "context_step: count must have dtype torch.int64, got torch.int32"),
    (
        SHORT_CONV,
        lambda state: state[:1],
        "short_conv: conv_state must have shape (2, 3, 16) (B, P, C), got (1, 3, 16)",
    ),
    (SHORT_CONV, lambda x: None, "short_conv: conv_state must be a tensor, got None"),
]


@pytest.mark.parametrize(("operator", "spoil", "message"), MESSAGES)
def test_messages_name_argument_expected_and_got(operator: Operator, spoil: Any, message: str) -> None:
    *rest, last = operator.make().values()
    assert refusal(operator, operator.call, [*rest, spoil(last)]) == message


@pytest.mark.parametrize("operator", LONG, ids=str)
def test_an_empty_sequence_is_refused(operator: Operator) -> None:
    streams = ("x", "values", "filter_", "raw_key")
    inputs = [x[:, :0] if name in streams else x for name, x in operator.make().items()]
    sentence = "needs at least one token, got a sequence of length 0"
    for backend in operator.backends.available():
        with pytest.raises(ValueError, match=sentence):
            operator.call(*inputs, backend=backend)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_an_empty_batch_is_refused(operator: Operator) -> None:
    inputs = list(operator.make().values())
    for backend in operator.backends.available():
        with pytest.raises(ValueError, match="needs at least one row, got a batch of 0"):
            operator.call(inputs[0][:0], *inputs[1:], backend=backend)


def test_no_head_and_no_bin_are_refused() -> None:
    inputs = KEYED_MIX.make()
    with pytest.raises(ValueError, match="keyed_mix needs a size H of at least 1, got 0"):
        KEYED_MIX.call(*(inputs | {"values": inputs["values"][:, :, :0]}).values())
    with pytest.raises(ValueError, match="keyed_mix needs a size F of at least 1, got 0"):
        KEYED_MIX.call(*(inputs | {"key": inputs["key"][..., :0]}).values())
