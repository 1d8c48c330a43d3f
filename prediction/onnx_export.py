"""A trained U-Net written as ONNX, from its weights alone: to run it no framework has to start."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from system.files import InputError

# Of the normalisation layers of Keras.
EPSILON = 1e-3
OPERATORS, FORMAT = 17, 8  # old enough for the engines of 2022


def export_network(stored, unet, path):
    """Write the network that `unet.build_unet` builds, as it answers when it does not train.

    Dropout is gone, batch normalisation folded into the convolutions before it, and of deep
    supervision the finest answer stays. Sides may be any multiple of downsampling * 2**levels.

    Parameters
    ----------
    stored : dict of str to list of ndarray
        The arrays of each layer, from `training.stored_weights.read_weights`.
    unet : config.UNet
    path : Path
        Of the weights, for messages.

    Returns
    -------
    bytes
        An ONNX model from ``image``, float32 (B, C, H, W), to ``probability``, (B, 1, H, W).

    Raises
    ------
    InputError
        If a layer is missing, left over, or of another shape than these settings say; names it.
    """
    graph = _Graph(dict(stored), path)
    channels = 2 * unet.neighbours + 1

    def block(x, channels, width, name):
        for i in (1, 2):
            x = graph.convolution(x, f"{name}_conv_{i}", f"{name}_norm_{i}", channels, width, unet)
            x = graph.add("Relu", f"{name}_relu_{i}", x)
            channels = width
        return x

    x, skips, factor = "image", [], unet.downsampling
    if factor > 1:
        x = graph.add(
            "AveragePool", "downsample", x, kernel_shape=[factor] * 2, strides=[factor] * 2
        )
    for level in range(1, unet.levels + 1):
        width = unet.filters * 2 ** (level - 1)
        x = block(x, channels, width, f"encoder_{level}")
        skips.append(x)
        x = graph.add("MaxPool", f"encoder_{level}_pool", x, kernel_shape=[2, 2], strides=[2, 2])
        channels = width
    x = block(x, channels, 2 * channels, "bottleneck")
    for level in range(unet.levels, 0, -1):
        width = unet.filters * 2 ** (level - 1)
        name = f"decoder_{level}_up"
        kernel, bias = graph.take(name, (2, 2, width, 2 * width), (width,))
        constants = [kernel.transpose(3, 2, 0, 1), bias]  # (in, out, 2, 2)
        up = graph.add("ConvTranspose", name, x, *constants, strides=[2, 2])
        x = graph.add("Concat", f"decoder_{level}_skip", [skips.pop(), up], axis=1)
        x = block(x, 2 * width, width, f"decoder_{level}")
        if unet.deep_supervision and 1 < level < unet.levels:
            graph.take(f"decoder_{level}_head", (1, 1, width, 1), (1,))
    if factor > 1:
        kernel, bias = graph.take("head", (factor, factor, 1, width), (1,))
        kind = "ConvTranspose"
    else:
        kernel, bias = graph.take("head", (1, 1, width, 1), (1,))
        kind = "Conv"
    constants = [kernel.transpose(3, 2, 0, 1), bias]
    x = graph.add(kind, "head", x, *constants, strides=[factor] * 2)
    graph.add("Sigmoid", "probability", x)
    return graph.as_bytes(2 * unet.neighbours + 1)


class _Graph:
    """Nodes and constants of a graph that grows; each node gives its name to what comes out."""

    def __init__(self, stored, path):
        self.stored, self.path = stored, path
        self.nodes, self.constants = [], []

    def take(self, name, *shapes):
        """Take the arrays of a layer out of what is stored; refuse those of another network."""
        if name not in self.stored:
            raise InputError(f"{self.path}: has no layer {name}; it belongs to another network")
        arrays = self.stored.pop(name)
        found = [array.shape for array in arrays]
        if found != list(shapes):
            raise InputError(
                f"{self.path}: layer {name} has shapes {found}, the network of these settings "
                f"{list(shapes)}; use the `unet` settings that the weights were trained with"
            )
        return [array.astype(np.float64) for array in arrays]

    def convolution(self, x, name, norm, channels, width, unet):
        """Add a 3 × 3 convolution with the normalisation behind it."""
        shapes = (3, 3, channels, width), (width,)
        if unet.instance_normalisation:
            (kernel,) = self.take(name, shapes[0])
            x = self.add("Conv", name, x, kernel.transpose(3, 2, 0, 1), pads=[1, 1, 1, 1])
            scale_and_shift = self.take(norm, (width,), (width,))
            return self.add("InstanceNormalization", norm, x, *scale_and_shift, epsilon=EPSILON)
        if unet.batch_normalisation:
            (kernel,) = self.take(name, shapes[0])
            gamma, beta, mean, variance = self.take(norm, *[(width,)] * 4)
            factor = gamma / np.sqrt(variance + EPSILON)
            kernel, bias = kernel * factor, beta - mean * factor
        else:
            kernel, bias = self.take(name, *shapes)
        return self.add("Conv", name, x, kernel.transpose(3, 2, 0, 1), bias, pads=[1, 1, 1, 1])

    def add(self, kind, name, inputs, *constants, **attributes):
        """Add a node; return the name of its output."""
        inputs = [inputs] if isinstance(inputs, str) else inputs
        names = [f"{name}_{i}" for i in range(len(constants))]
        for own, array in zip(names, constants, strict=True):
            array = np.ascontiguousarray(array, np.float32)
            self.constants.append(numpy_helper.from_array(array, own))
        self.nodes.append(helper.make_node(kind, [*inputs, *names], [name], name, **attributes))
        return name

    def as_bytes(self, channels):
        if self.stored:
            name = min(self.stored)
            raise InputError(f"{self.path}: layer {name} is not in the network of these settings")
        ends = [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["batch", count, "height", "width"]
            )
            for name, count in (("image", channels), ("probability", 1))
        ]
        graph = helper.make_graph(self.nodes, "unet", ends[:1], ends[1:], self.constants)
        model = helper.make_model(
            graph,
            producer_name="Lacuna",
            ir_version=FORMAT,
            opset_imports=[helper.make_opsetid("", OPERATORS)],
        )
        return model.SerializeToString(deterministic=True)
