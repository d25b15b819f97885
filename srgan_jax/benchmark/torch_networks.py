"""D and VGG19 as PyTorch modules, and layers of G as a CPU likes them, for `torch_train`."""

from typing import Any

import flax.traverse_util
import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from srgan_jax.convert import torch_arrays
from srgan_jax.convert.srresnet import SRResNet
from srgan_jax.models import discriminator as flax_discriminator
from srgan_jax.models import vgg as flax_vgg
from srgan_jax.state import Params


class _SharedPReLU(torch.autograd.Function):
    """PReLU of one slope as LeakyReLU, whose backward pass is quicker on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope.item()
        return functional.leaky_relu(x, ctx.slope)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (x,) = ctx.saved_tensors
        negative = x.clamp(max=0)
        lying = (y.permute(0, 2, 3, 1).reshape(-1) for y in (gradient, negative))
        at_x = torch.ops.aten.leaky_relu_backward(gradient, x, ctx.slope, False)
        return at_x, torch.dot(*lying).reshape(1)


class SharedPReLU(nn.PReLU):
    """As its parent with one slope."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _SharedPReLU.apply(x, self.weight)


class RowConv2d(nn.Conv2d):
    """As its parent, for few output channels, which fill a small part of a CPU's vectors.

    A kernel's rows are convolved apart, each making channels of its own, which are shifted and
    added up.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, inputs, size, _ = self.weight.shape
        height, reach = x.shape[2], size // 2
        kernel = self.weight.permute(2, 0, 1, 3).reshape(size * outputs, inputs, 1, size)
        rows = functional.conv2d(x, kernel, padding=(0, reach))
        rows = functional.pad(rows, (0, 0, reach, reach))
        y = self.bias.view(-1, 1, 1)
        for i in range(size):
            y = y + rows[:, i * outputs : (i + 1) * outputs, i : i + height]
        return y


class Discriminator(nn.Module):
    """D: HR crops [B, 3, H, W] in [-1, 1] to logits [B]; layers are named as in Flax."""

    def __init__(self, module: flax_discriminator.Discriminator, dense_inputs: int) -> None:
        super().__init__()
        self.slope, self.head = module.slope, module.head
        inputs = 3
        for i in range(8):
            features = module.channels * 2 ** (i // 2)
            stride = 1 + i % 2
            self.add_module(f"conv{i}", nn.Conv2d(inputs, features, 3, stride, padding=1))
            if i > 0:
                self.add_module(f"bn{i}", nn.BatchNorm2d(features))
            inputs = features
        self.dense0 = nn.Linear(dense_inputs, module.dense)
        self.dense1 = nn.Linear(module.dense, 1)

    def forward(self, *batches: torch.Tensor) -> torch.Tensor:
        """Logits of all batches in turn, each normalised by its own statistics.

        The dense layers, which normalise nothing, take all at once: the large
        gradient of the first is then made once, and never added up.
        """
        x = torch.cat([self.features(image) for image in batches])
        x = functional.leaky_relu(self.dense0(x), self.slope)
        return self.dense1(x)[:, 0]

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """What the dense layers take, [B, n]."""
        x = image
        for i in range(8):
            x = self.get_submodule(f"conv{i}")(x)
            if i > 0:
                x = self.get_submodule(f"bn{i}")(x)
            x = functional.leaky_relu(x, self.slope, inplace=True)
        # Flattened as Flax does it, channels last, which is how they lie here too.
        return x.mean((2, 3)) if self.head == "pool" else x.permute(0, 2, 3, 1).flatten(1)


class VGG19(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to {layer: activations [B, c, h, w]}, frozen."""

    def __init__(self, module: flax_vgg.VGG19) -> None:
        super().__init__()
        self.layers = module.layers
        self.needed = flax_vgg.layers_needed(module.layers)
        inputs = 3
        for name in flax_vgg.convolutions_needed(module.layers):
            features = flax_vgg.STAGES[int(name[4]) - 1][1]
            self.add_module(name, nn.Conv2d(inputs, features, 3, padding=1))
            inputs = features
        for name, values in module.normalisation._asdict().items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        x = ((image + 1) * 127.5 - self.mean) / self.deviation
        activations = {}
        for name in self.needed:
            if name.startswith("conv"):
                x = self.get_submodule(name)(x)
            elif name.startswith("relu"):
                x = functional.relu(x, inplace=name.replace("relu", "conv") not in self.layers)
            else:
                x = functional.max_pool2d(x, 2)
            if name in self.layers:
                activations[name] = x
        return activations


def suit_cpu(network: SRResNet) -> None:
    """The same layers, written as a CPU likes them."""
    for name, layer in list(network.named_children()):
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            setattr(network, name, SharedPReLU())
    last = network.conv_out
    network.conv_out = RowConv2d(
        last.in_channels, last.out_channels, last.kernel_size, padding=last.padding
    )


def state_dict(*trees: Params) -> dict[str, np.ndarray]:
    """Flax's parameters and statistics of D or VGG19 as PyTorch's arrays, by its keys."""
    arrays = {}
    for tree in trees:
        for (layer, leaf), array in flax.traverse_util.flatten_dict(jax.device_get(tree)).items():
            if leaf == "kernel":  # [h, w, in, out], or [in, out]
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            arrays[f"{layer}.{torch_arrays.NAMES[leaf]}"] = np.array(array)
    return arrays
