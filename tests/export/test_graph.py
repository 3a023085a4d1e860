"""Graphs with fewer nodes compute the same."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from fftnet.export.graph import simplify

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
onnxruntime = pytest.importorskip("onnxruntime")

Node = tuple[str, list[str], str, Mapping[str, object]]
RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "w1": RANDOM.standard_normal((3, 4)),
    "w2": RANDOM.standard_normal((5, 4)),
    "w3": RANDOM.standard_normal((4, 4)),
    "bias": RANDOM.standard_normal(5),
    "scale": RANDOM.standard_normal((2, 4)),
    "gain": RANDOM.standard_normal((2, 1)),
    "ones": np.ones((3, 1, 1)),
    "limit": np.array(20.0),
    "low": np.array(0.1),
}
TRANSPOSED = {"transB": 1}


def both(nodes: Sequence[Node], outputs: Sequence[str], shape: Sequence[int]) -> Counter[str]:
    """Check that a graph of one input x computes the same after ``simplify``, and count what it then has."""
    helper = onnx.helper
    constants = {name: value.astype(np.float32) for name, value in CONSTANTS.items()}
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **more) for kind, inputs, output, more in nodes],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(before))
    simplify(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    x = 30 * RANDOM.standard_normal((3, *shape)).astype(np.float32)
    results = [
        onnxruntime.InferenceSession(program.SerializeToString()).run(list(outputs), {"x": x})
        for program in (before, after)
    ]
    for found, expected in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    return Counter(node.op_type for node in after.graph.node)


def test_products_of_one_input_are_one() -> None:
    nodes: list[Node] = [
        ("Gemm", ["x", "w1"], "a", TRANSPOSED),
        ("Gemm", ["x", "w2", "bias"], "b", TRANSPOSED),
        ("Gemm", ["x", "w3"], "c", {"transB": 1, "alpha": 0.5}),
        ("Tanh", ["a"], "ta", {}),
        ("Tanh", ["b"], "tb", {}),
        ("Tanh", ["c"], "tc", {}),
    ]
    assert both(nodes, ["ta", "tb", "tc"], [4]) == Counter(Gemm=2, Split=1, Tanh=3)


def test_a_product_that_is_asked_for_stays_alone() -> None:
    nodes: list[Node] = [
        ("Gemm", ["x", "w1"], "a", TRANSPOSED),
        ("Gemm", ["x", "w2", "bias"], "b", TRANSPOSED),
        ("Tanh", ["b"], "y", {}),
    ]
    assert both(nodes, ["a", "y"], [4]) == Counter(Gemm=2, Tanh=1)


def test_a_residual_is_added_by_the_product() -> None:
    nodes: list[Node] = [
        ("Gemm", ["x", "w3"], "a", TRANSPOSED),
        ("Add", ["x", "a"], "b", {}),
        ("Tanh", ["b"], "y", {}),
    ]
    assert both(nodes, ["y"], [4]) == Counter(Gemm=1, Tanh=1)
    # A product that is asked for, or has a bias, has no room for it.
    assert both(nodes, ["y", "a"], [4]) == Counter(Gemm=1, Add=1, Tanh=1)
    nodes = [("Gemm", ["x", "w2", "bias"], "a", TRANSPOSED), ("Add", ["a", "a"], "b", {})]
    assert both(nodes, ["b"], [4]) == Counter(Gemm=1, Add=1)


def test_a_constant_is_part_of_the_scale_of_a_norm() -> None:
    nodes: list[Node] = [
        ("RMSNormalization", ["x", "scale"], "a", {"axis": -1, "epsilon": 1e-6}),
        ("Mul", ["a", "gain"], "b", {}),
        ("Tanh", ["b"], "y", {}),
    ]
    untouched = Counter(RMSNormalization=1, Mul=1, Tanh=1)
    assert both(nodes, ["y"], [2, 4]) == Counter(RMSNormalization=1, Tanh=1)
    assert both(nodes, ["a", "y"], [2, 4]) == untouched
    assert both(nodes, ["b", "y"], [2, 4]) == untouched
    # What has the rank of the tensor itself may stretch it over rows.
    nodes[1] = ("Mul", ["a", "ones"], "b", {})
    assert both(nodes, ["y"], [2, 4]) == untouched


def test_softplus_guards_itself() -> None:
    nodes: list[Node] = [
        ("Greater", ["x", "limit"], "large", {}),
        ("Softplus", ["x"], "soft", {}),
        ("Where", ["large", "x", "soft"], "y", {}),
        ("Tanh", ["y"], "z", {}),
    ]
    assert both(nodes, ["z"], [4]) == Counter(Softplus=1, Tanh=1)
    # A guard that changes the values is no guard.
    nodes[0] = ("Greater", ["x", "low"], "large", {})
    assert both(nodes, ["z"], [4]) == Counter(Greater=1, Softplus=1, Where=1, Tanh=1)
