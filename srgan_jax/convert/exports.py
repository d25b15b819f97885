"""A generator for other frameworks: ONNX, a PyTorch state dict, and StableHLO (`jax.export`).

All take LR [B, 3, h, w] (StableHLO [B, h, w, 3]), RGB in [0, 1], float32, of any size from 2 pixels
on. ONNX and StableHLO give SR in [0, 1], clipped: what is wanted of them is a picture. The PyTorch
module is the network itself, to [-1, 1] and not clipped (`srresnet.py`).
"""

import io
import json
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from srgan_jax import ranges, resample
from srgan_jax.convert import torch_arrays
from srgan_jax.errors import UserError
from srgan_jax.models.generator import Generator
from srgan_jax.models.layers import BN_EPSILON
from srgan_jax.state import Variables
from srgan_jax.weights import architecture

ONNX_OPSET = 17  # of 2022: what onnxruntime 1.12, and with it chaiNNer, can run
_EXTRA = "pip install -e .[convert]"


def to_unit_image(generator: Generator, variables: Variables) -> Callable[[jax.Array], jax.Array]:
    """The function that ONNX and StableHLO hold: LR [B, h, w, 3] in [0, 1] to SR in [0, 1]."""

    def super_resolve(lr_image: jax.Array) -> jax.Array:
        sr: Any = generator.apply(variables.as_flax(), lr_image, train=False)
        return jnp.clip(ranges.signed_to_unit(sr), 0.0, 1.0)

    return super_resolve


# PyTorch


def state_dict(generator: Generator, variables: Variables) -> dict[str, np.ndarray]:
    """The arrays of `srresnet.SRResNet` by its keys, in PyTorch's shapes, float32."""
    arrays = {}
    for tree in (variables.params, variables.batch_stats):
        for (layer, leaf), array in flax.traverse_util.flatten_dict(jax.device_get(tree)).items():
            name = f"{layer}.{torch_arrays.NAMES[leaf]}"
            arrays[name] = torch_arrays.to_torch(array, generator, layer, leaf)
    return arrays


def to_pytorch(generator: Generator, variables: Variables) -> bytes:
    """`{"architecture", "state_dict"}` as `torch.save` writes it. Raises: UserError."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"writing .pth needs PyTorch: {_EXTRA}") from error
    saved = {
        "architecture": architecture(generator),
        "state_dict": {
            name: torch.from_numpy(array)
            for name, array in state_dict(generator, variables).items()
        },
    }
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


# StableHLO


def to_stablehlo(generator: Generator, variables: Variables) -> bytes:
    """What `jax.export.deserialize` reads, for CPU, GPU and TPU. Raises: UserError."""
    try:
        import flatbuffers  # noqa: F401, `serialize` needs it
    except ImportError as error:
        raise UserError(f"writing .stablehlo needs flatbuffers: {_EXTRA}") from error
    from jax import export

    shape = export.symbolic_shape("b, h, w", constraints=["h >= 2", "w >= 2"])
    form = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
    function = jax.jit(to_unit_image(generator, variables))
    return bytes(export.export(function, platforms=("cpu", "cuda", "tpu"))(form).serialize())


# ONNX


class _Graph:
    """Collects nodes and constants, naming results by what made them."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        array = np.ascontiguousarray(value, dtype)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def slice(self, name: str, x: str, start: int, end: int, axis: int, step: int = 1) -> str:
        limits = (
            self.constant(f"{name}_{kind}", [value], np.int64)
            for kind, value in (("start", start), ("end", end), ("axis", axis), ("step", step))
        )
        return self.node("Slice", name, x, *limits)


def to_onnx(generator: Generator, variables: Variables) -> bytes:
    """An ONNX model of any batch, height and width. Raises: UserError."""
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"writing .onnx needs onnx: {_EXTRA}") from error
    graph = _Graph(onnx)
    output = _onnx_network(graph, generator, jax.device_get(variables))
    scale = generator.scale
    value = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "srgan_jax",
            [value("input", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])],
            [
                value(
                    output,
                    onnx.TensorProto.FLOAT,
                    ["batch", 3, f"{scale}*height", f"{scale}*width"],
                )
            ],
            graph.constants,
        ),
        producer_name="srgan_jax",
        opset_imports=[onnx.helper.make_opsetid("", ONNX_OPSET)],
        ir_version=8,  # of the same time as the opset
    )
    onnx.helper.set_model_props(model, {"srgan_jax": json.dumps(architecture(generator))})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _onnx_network(graph: _Graph, generator: Generator, variables: Variables) -> str:
    """The nodes of the network, layer by layer as in `Generator`; BatchNorm within convolutions."""
    params, stats = variables.params, variables.batch_stats

    def conv(x: str, name: str, norm: str | None = None) -> str:
        kernel, bias = (params[name][leaf].astype(np.float64) for leaf in ("kernel", "bias"))
        if norm in params:
            factor = params[norm]["scale"] / np.sqrt(stats[norm]["var"] + np.float64(BN_EPSILON))
            kernel, bias = kernel * factor, (bias - stats[norm]["mean"]) * factor
            bias = bias + params[norm]["bias"]
        side = kernel.shape[0]
        weight = graph.constant(f"{name}_kernel", kernel.transpose(3, 2, 0, 1))
        bias = graph.constant(f"{name}_bias", bias)
        return graph.node("Conv", name, x, weight, bias, pads=[side // 2] * 4)

    def activation(x: str, name: str) -> str:
        if generator.activation == "swish":
            return graph.node("Mul", name, x, graph.node("Sigmoid", f"{name}_sigmoid", x))
        slope = params[name]["slope"]
        if slope.size == 1:
            return graph.node("LeakyRelu", name, x, alpha=float(slope[0]))
        return graph.node("PRelu", name, x, graph.constant(f"{name}_slope", slope[:, None, None]))

    x = "input"
    if generator.input == "imagenet":
        x = graph.node("Sub", "centred", x, _channels(graph, "mean", ranges.IMAGENET_MEAN))
        deviation = _channels(graph, "deviation", ranges.IMAGENET_DEVIATION)
        x = graph.node("Div", "standardised", x, deviation)
    skip = x = activation(conv(x, "conv_in"), "prelu_in")
    for i in range(generator.blocks):
        y = conv(x, f"block{i}_conv1", f"block{i}_bn1")
        y = conv(activation(y, f"block{i}_prelu"), f"block{i}_conv2", f"block{i}_bn2")
        x = graph.node("Add", f"block{i}", x, y)
    if generator.mid != "none":
        x = conv(x, "conv_mid", "bn_mid")
        x = activation(x, "prelu_mid") if generator.mid == "prelu" else x
        x = graph.node("Add", "long_skip", skip, x)
    for i, factor in enumerate(generator.stages):
        if generator.upsample == "nearest":
            x = _resize(graph, f"up{i}", x, factor, mode="nearest", nearest_mode="floor")
            x = conv(x, f"up{i}_conv")
        else:
            x = conv(x, f"up{i}_conv")
            x = graph.node("DepthToSpace", f"up{i}", x, blocksize=factor, mode="DCR")
        x = activation(x, f"up{i}_prelu")
    if generator.hr_conv:
        x = activation(conv(x, "conv_hr"), "prelu_hr")
    x = conv(x, "conv_out")
    if generator.last_factor > 1:
        x = graph.node(
            "DepthToSpace", "enlarged_out", x, blocksize=generator.last_factor, mode="DCR"
        )
    if generator.output == "tanh":
        x = graph.node("Tanh", "tanh", x)
    half = graph.constant("half", 0.5)
    x = graph.node("Mul", "halved", x, half)
    if generator.base == "none":
        x = graph.node("Add", "unit", x, half)
    else:  # it is in [0, 1] as it is
        x = graph.node("Add", "unit", x, _base(graph, generator))
    zero, one = graph.constant("zero", 0.0), graph.constant("one", 1.0)
    return graph.node("Clip", "output", x, zero, one)


def _channels(graph: _Graph, name: str, values: tuple[float, ...]) -> str:
    return graph.constant(name, np.array(values)[:, None, None])


def _resize(graph: _Graph, name: str, x: str, factor: int, **how: Any) -> str:
    scales = graph.constant(f"{name}_scales", [1, 1, factor, factor])
    if how["mode"] == "nearest":
        how["coordinate_transformation_mode"] = "asymmetric"
    return graph.node("Resize", name, x, "", scales, **how)


def _base(graph: _Graph, generator: Generator) -> str:
    """The enlargement that the network adds to."""
    if generator.base == "bilinear":
        return _resize(graph, "base", "input", generator.scale, mode="linear")
    x = "input"
    reach = 2
    for axis in (2, 3):  # mirrored with the edge repeated, which is no mode of Pad
        end = np.iinfo(np.int64).max
        before = graph.slice(f"before{axis}", x, reach - 1, -end, axis, -1)
        after = graph.slice(f"after{axis}", x, -1, -reach - 1, axis, -1)
        x = graph.node("Concat", f"mirrored{axis}", before, x, after, axis=axis)
    x = _resize(graph, "enlarged", x, generator.scale, mode="cubic", cubic_coeff_a=resample.CUBIC_A)
    cut = reach * generator.scale
    x = graph.slice("cut2", x, cut, -cut, 2)
    return graph.slice("cut3", x, cut, -cut, 3)
