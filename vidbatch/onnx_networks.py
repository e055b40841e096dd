"""A network of single frames in; the same as a program of ONNX Runtime out, which a CPU runs in little more than half
the time that torch takes for it, with the same scores but for rounding.

What torch.fx has traced is translated layer by layer, here, in no time: torch's own exporter takes ten seconds and
more. Known are the layers of the default model, of ResNets, MobileNetV2 and their like; of all others it says None.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

Program = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images float32 N x 3 x H x W in; logits, and what enters the last layer, out. Threads may run it side by side."""

_OPSET: Final = 17
_TOLERANCE: Final = 1e-3


def program_of(module: nn.Module, classifier: str, images: Tensor) -> Program | None:
    """The program of a traced network; None where ONNX Runtime is not installed, or has other scores, or none.

    Args: `images` are what both are tried on; `classifier` names the last layer.
    """
    if find_spec("onnx") is None or find_spec("onnxruntime") is None or not isinstance(module, fx.GraphModule):
        return None
    try:
        program = _load(_Translation(module, classifier).content())
    except (_Unknown, ValueError):  # ValueError: of protobuf, more than 2 GB
        return None
    with torch.inference_mode():
        is_same = torch.allclose(program(images)[0], module(images), rtol=_TOLERANCE, atol=_TOLERANCE)
    return program if is_same else None


def _load(content: bytes) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # slices run side by side instead
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images_nchw: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = session.run(None, {"images": images_nchw.contiguous().numpy()})
        return torch.from_numpy(logits), torch.from_numpy(features)

    return run


class _Unknown(Exception):
    """A layer that is not known here."""


class _Translation:
    """The nodes and weights of an ONNX graph, as far as they are written."""

    def __init__(self, module: fx.GraphModule, classifier: str) -> None:
        self._module, self._classifier = module, classifier
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._names: dict[fx.Node, str] = {}
        self._features = ""

    def content(self) -> bytes:
        """The whole program. Raises _Unknown."""
        from onnx import TensorProto, helper

        for node in self._module.graph.nodes:
            self._names[node] = self._translated(node)
        outputs = [str(self._names[node.args[0]]) for node in self._module.graph.nodes if node.op == "output"]
        if not self._features:
            raise _Unknown("the last layer was not met")
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "height", "width"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*outputs, self._features)],
            self._weights,
        )
        opset = helper.make_opsetid("", _OPSET)
        return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())

    def _translated(self, node: fx.Node) -> str:
        """The name of what a node gives."""
        if node.op == "placeholder":
            return "images"
        if node.op == "output":
            return ""
        first = self._names.get(node.args[0], "") if node.args and isinstance(node.args[0], fx.Node) else ""
        if node.op == "call_module":
            layer = self._module.get_submodule(str(node.target))
            if node.target == self._classifier:
                self._features = self.add("Identity", first)
            translate = _LAYERS.get(type(layer))
            if translate is not None and len(node.args) == 1 and not node.kwargs:
                return translate(self, layer, first)
        elif node.op == "call_function" and node.target in _OF_TWO and all(isinstance(of, fx.Node) for of in node.args):
            return self.add(_OF_TWO[node.target], *(self._names[of] for of in node.args if isinstance(of, fx.Node)))
        elif node.op in ("call_function", "call_method") and node.kwargs.keys() <= {"inplace"}:
            for name, rest, translate_call in _CALLS:
                if name == node.target and rest == node.args[1:]:
                    return translate_call(self, first)
        raise _Unknown(f"{node.op} {node.target}")

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Write a node that gives one thing; its name."""
        from onnx import helper

        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, value: Tensor) -> str:
        """Write a constant; its name."""
        from onnx import numpy_helper

        name = f"weight_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value.detach().cpu().contiguous().numpy(), name))
        return name


# --- layers ---------------------------------------------------------------------------------------------------------


def _conv(to: _Translation, layer: nn.Conv2d, given: str) -> str:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise _Unknown("padding that is not by zeros")
    weights = [to.weight(of) for of in (layer.weight, layer.bias) if of is not None]
    return to.add(
        "Conv", given, *weights, kernel_shape=layer.kernel_size, strides=layer.stride, pads=layer.padding * 2,
        dilations=layer.dilation, group=layer.groups,
    )  # fmt: skip


def _norm(to: _Translation, layer: nn.BatchNorm2d, given: str) -> str:
    of = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    if any(value is None for value in of):
        raise _Unknown("a batch norm without weights")
    return to.add("BatchNormalization", given, *(to.weight(v) for v in of if v is not None), epsilon=layer.eps)


def _linear(to: _Translation, layer: nn.Linear, given: str) -> str:
    return to.add("Gemm", given, *(to.weight(of) for of in (layer.weight, layer.bias) if of is not None), transB=1)


def _zeros_around(to: _Translation, layer: nn.ZeroPad2d, given: str) -> str:
    left, right, top, bottom = layer.padding
    return to.add("Pad", given, to.weight(torch.tensor([0, 0, top, left, 0, 0, bottom, right])))


def _clip(to: _Translation, layer: nn.Hardtanh, given: str) -> str:
    bounds = (to.weight(torch.tensor(float(bound))) for bound in (layer.min_val, layer.max_val))
    return to.add("Clip", given, *bounds)


def _largest(to: _Translation, layer: nn.MaxPool2d, given: str) -> str:
    if layer.dilation not in (1, (1, 1)) or layer.return_indices:
        raise _Unknown("a pool of another kind")
    kernel, stride, padding = (
        (of, of) if isinstance(of, int) else tuple(of) for of in (layer.kernel_size, layer.stride, layer.padding)
    )
    return to.add(
        "MaxPool", given, kernel_shape=kernel, strides=stride, pads=padding * 2, ceil_mode=int(layer.ceil_mode)
    )


def _mean_of_all(to: _Translation, layer: nn.AdaptiveAvgPool2d, given: str) -> str:
    if layer.output_size not in (1, (1, 1)):
        raise _Unknown("a pool of another size")
    return to.add("GlobalAveragePool", given)


def _flat(to: _Translation, given: str) -> str:
    return to.add("Flatten", given, axis=1)


_LAYERS: Final[dict[type[nn.Module], Callable[[_Translation, Any, str], str]]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _norm,
    nn.Linear: _linear,
    nn.ZeroPad2d: _zeros_around,
    nn.ReLU: lambda to, _, given: to.add("Relu", given),
    nn.ReLU6: _clip,
    nn.Hardtanh: _clip,
    nn.Sigmoid: lambda to, _, given: to.add("Sigmoid", given),
    nn.Hardswish: lambda to, _, given: to.add("HardSwish", given),
    nn.SiLU: lambda to, _, given: to.add("Mul", given, to.add("Sigmoid", given)),
    nn.MaxPool2d: _largest,
    nn.AdaptiveAvgPool2d: _mean_of_all,
    nn.Identity: lambda _to, _, given: given,
    nn.Dropout: lambda _to, _, given: given,
}
_OF_TWO: Final[dict[Any, str]] = {
    operator.add: "Add", operator.iadd: "Add", torch.add: "Add", operator.mul: "Mul", operator.imul: "Mul",
}  # fmt: skip
_CALLS: Final[tuple[tuple[Any, tuple[Any, ...], Callable[[_Translation, str], str]], ...]] = (
    ("mean", ((2, 3),), lambda to, given: _flat(to, to.add("GlobalAveragePool", given))),
    (torch.flatten, (1,), _flat),
    ("flatten", (1,), _flat),
    (functional.relu, (), lambda to, given: to.add("Relu", given)),
    (functional.adaptive_avg_pool2d, ((1, 1),), lambda to, given: to.add("GlobalAveragePool", given)),
)
