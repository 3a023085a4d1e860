"""Fewer nodes for what an exported graph computes: small ones cost a runtime more than their numbers.

The passes change a graph of ``onnx_ir`` in place and know nothing of the model it came from.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from fftnet.export.errors import import_onnx

Nodes = list[Any]

LARGE = 18.0
"""From here on, x and softplus(x) are the same number in float32."""


def simplify(model: Any) -> None:
    """Merge what can be one node, and leave out what guards a function that guards itself.

    Args:
        model: an ``onnx_ir.Model``, changed in place.
    """
    ir = import_onnx("onnx_ir")
    _unguard_softplus(model.graph)
    _fold_scales(ir, model.graph)
    _add_in_products(model.graph)
    _merge_products(ir, model.graph)
    import_onnx("onnx_ir.passes.common").RemoveUnusedNodesPass()(model)


def _unguard_softplus(graph: Any) -> None:
    """``x > threshold ? x : softplus(x)`` is ``softplus(x)`` where that does not overflow, as in runtimes."""
    for node in list(graph):
        if node.op_type != "Where" or node.outputs[0].is_graph_output():
            continue
        guard, x, other = node.inputs
        softplus = other.producer()
        if softplus is None or softplus.op_type != "Softplus" or softplus.inputs[0] is not x:
            continue
        greater = guard.producer()
        if greater is None or greater.op_type != "Greater" or greater.inputs[0] is not x:
            continue
        threshold = greater.inputs[1].const_value
        if threshold is not None and (threshold.numpy() >= LARGE).all():
            node.outputs[0].replace_all_uses_with(other)
            graph.remove(node, safe=True)


def _fold_scales(ir: Any, graph: Any) -> None:
    """A constant that multiplies a normalised tensor becomes part of the norm's own scale."""
    for node in list(graph):
        if node.op_type != "Mul" or node.inputs[1].const_value is None or node.outputs[0].is_graph_output():
            continue
        norm = node.inputs[0].producer()
        if norm is None or norm.op_type != "RMSNormalization" or not _is_read_once(norm.outputs[0]):
            continue
        constants = [norm.inputs[1].const_value, node.inputs[1].const_value]
        if constants[0] is None or len(constants[1].shape) >= len(norm.outputs[0].shape):
            continue
        scale = np.multiply(*(constant.numpy() for constant in constants))
        norm.replace_input_with(1, _constant(ir, graph, f"{node.outputs[0].name}_scale", scale))
        node.outputs[0].replace_all_uses_with(norm.outputs[0])
        graph.remove(node, safe=True)


def _add_in_products(graph: Any) -> None:
    """What is added to a product without a bias becomes its third operand."""
    for node in list(graph):
        if node.op_type != "Add" or node.outputs[0].is_graph_output():
            continue
        for product, other in (node.inputs, node.inputs[::-1]):
            gemm = product.producer()
            if gemm is None or gemm.op_type != "Gemm" or len(gemm.inputs) > 2 or not _is_read_once(product):
                continue
            if other.shape is None or product.shape is None or other.shape != product.shape:
                continue
            gemm.resize_inputs(3)
            gemm.replace_input_with(2, other)
            graph.remove(gemm)
            graph.insert_before(node, gemm)
            node.outputs[0].replace_all_uses_with(product)
            graph.remove(node, safe=True)
            break


def _is_read_once(value: Any) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _merge_products(ir: Any, graph: Any) -> None:
    """Products of one input with several constant matrices become one, whose columns are then split."""
    products: dict[Any, Nodes] = defaultdict(list)
    for node in graph:
        if node.op_type == "Gemm" and _is_linear(node) and not node.outputs[0].is_graph_output():
            products[node.inputs[0]].append(node)
    for source, nodes in products.items():
        if len(nodes) > 1:
            _merge(ir, graph, source, nodes)


def _is_linear(node: Any) -> bool:
    """Whether it is ``x W^T`` or ``x W^T + b`` with constants W and b."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = attributes.get("alpha", 1.0) == 1.0 and attributes.get("beta", 1.0) == 1.0
    transposed = attributes.get("transB", 0) == 1 and attributes.get("transA", 0) == 0
    constant = all(value is None or value.const_value is not None for value in node.inputs[1:])
    return plain and transposed and constant


def _merge(ir: Any, graph: Any, source: Any, nodes: Nodes) -> None:
    weights = [node.inputs[1].const_value.numpy() for node in nodes]
    sizes = [len(weight) for weight in weights]
    biases = [
        node.inputs[2].const_value.numpy()
        if len(node.inputs) > 2 and node.inputs[2] is not None
        else np.zeros(size, weight.dtype)
        for node, weight, size in zip(nodes, weights, sizes, strict=True)
    ]
    name = nodes[0].outputs[0].name
    constants = {
        f"{name}_weight": np.concatenate(weights),
        f"{name}_bias": np.concatenate(biases),
        f"{name}_sizes": np.array(sizes, np.int64),
    }
    values = [_constant(ir, graph, key, array) for key, array in constants.items()]
    product = ir.node("Gemm", [source, *values[:2]], {"transB": 1})
    split = ir.node("Split", [product.outputs[0], values[2]], {"axis": 1}, num_outputs=len(nodes))
    graph.insert_before(nodes[0], [product, split])
    for node, output in zip(nodes, split.outputs, strict=True):
        old = node.outputs[0]
        output.shape = old.shape
        output.dtype = old.dtype
        old.replace_all_uses_with(output)
    graph.remove(nodes, safe=True)


def _constant(ir: Any, graph: Any, name: str, array: np.ndarray) -> Any:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
