"""Our generator as a PyTorch module. This file needs PyTorch alone: copy it where it is wanted.

    saved = torch.load("srgan.pth", weights_only=True)
    generator = SRResNet(**saved["architecture"])
    generator.load_state_dict(saved["state_dict"])
    sr = generator.eval()(lr_image)  # [B, 3, h, w] in [0, 1] to [B, 3, s*h, s*w] in about [-1, 1]

A state dict's keys are the layers' names here, as in Flax, but for `weight`, `running_mean` and
`running_var`; kernels are [out, in, h, w], and channels before a pixel shuffle in PyTorch's order.
"""

import torch
from torch import nn
from torch.nn import functional

STAGES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


class SRResNet(nn.Module):
    """The generator of SRGAN; `srgan_jax.models.generator` explains the switches."""

    def __init__(
        self,
        *,
        scale: int = 4,
        blocks: int = 16,
        channels: int = 64,
        kernel: int = 9,
        norm: str = "batch",
        activation: str = "prelu",
        prelu: str = "shared",
        mid: str = "norm",
        upsample: str = "shuffle",
        hr_conv: bool = False,
        input: str = "unit",
        output: str = "linear",
        base: str = "none",
        **_: object,  # of training only
    ) -> None:
        super().__init__()
        self.scale, self.blocks, self.mid, self.upsample = scale, blocks, mid, upsample
        self.input, self.output, self.base = input, output, base

        def conv(name: str, inputs: int, outputs: int, size: int = 3) -> None:
            self.add_module(name, nn.Conv2d(inputs, outputs, size, padding=size // 2))

        def bn(name: str) -> None:
            self.add_module(name, nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity())

        def act(name: str) -> None:
            slopes = channels if prelu == "channel" else 1
            self.add_module(name, nn.SiLU() if activation == "swish" else nn.PReLU(slopes))

        conv("conv_in", 3, channels, kernel)
        act("prelu_in")
        for i in range(blocks):
            conv(f"block{i}_conv1", channels, channels)
            bn(f"block{i}_bn1")
            act(f"block{i}_prelu")
            conv(f"block{i}_conv2", channels, channels)
            bn(f"block{i}_bn2")
        if mid != "none":
            conv("conv_mid", channels, channels)
            act("prelu_mid") if mid == "prelu" else bn("bn_mid")
        self.stages = () if upsample == "direct" else STAGES[scale]
        for i, factor in enumerate(self.stages):
            widened = factor**2 if upsample == "shuffle" else 1
            conv(f"up{i}_conv", channels, widened * channels)
            act(f"up{i}_prelu")
        if hr_conv:
            conv("conv_hr", channels, channels)
            act("prelu_hr")
        self.last_factor = scale if upsample == "direct" else 1
        conv("conv_out", channels, 3 * self.last_factor**2, kernel)

    def forward(self, lr_image: torch.Tensor) -> torch.Tensor:
        """[B, 3, h, w], RGB in [0, 1], to [B, 3, s*h, s*w] in about [-1, 1], not clipped."""
        return self.enlarged(self.features(lr_image), lr_image)

    def features(self, lr_image: torch.Tensor) -> torch.Tensor:
        """The first part: what enlargement starts from, [B, channels, h, w]."""
        x = lr_image
        if self.input == "imagenet":
            mean = x.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
            x = (x - mean) / x.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        skip = x = self._run(x, "conv_in", "prelu_in")
        for i in range(self.blocks):
            parts = ("conv1", "bn1", "prelu", "conv2", "bn2")
            x = x + self._run(x, *(f"block{i}_{part}" for part in parts))
        if self.mid != "none":
            x = skip + self._run(x, "conv_mid", "prelu_mid" if self.mid == "prelu" else "bn_mid")
        return x

    def enlarged(self, features: torch.Tensor, lr_image: torch.Tensor) -> torch.Tensor:
        """The second part, from what `features` gave."""
        x = features
        for i, factor in enumerate(self.stages):
            if self.upsample == "nearest":
                x = self._run(functional.interpolate(x, scale_factor=factor), f"up{i}_conv")
            else:
                x = functional.pixel_shuffle(self._run(x, f"up{i}_conv"), factor)
            x = self._run(x, f"up{i}_prelu")
        if hasattr(self, "conv_hr"):
            x = self._run(x, "conv_hr", "prelu_hr")
        x = functional.pixel_shuffle(self.conv_out(x), self.last_factor)
        if self.output == "tanh":
            x = x.tanh()
        if self.base != "none":
            x = x + 2 * enlarge(lr_image, self.scale, self.base) - 1
        return x

    def _run(self, x: torch.Tensor, *names: str) -> torch.Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


def enlarge(x: torch.Tensor, scale: int, method: str) -> torch.Tensor:
    """Bilinear enlargement, or bicubic as MATLAB's `imresize`, whose borders mirror."""
    if method == "bilinear":
        return functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)

    def matrix(size: int) -> torch.Tensor:
        centers = (torch.arange(size * scale, dtype=torch.float64) + 0.5) / scale - 0.5
        indices = centers.floor().long()[:, None] + torch.arange(-2, 4)
        d = (centers[:, None] - indices).abs()
        near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        weights = torch.where(d <= 1, near, torch.where(d <= 2, far, 0.0))
        place = indices % (2 * size)
        place = torch.where(place < size, place, 2 * size - 1 - place)
        result = torch.zeros(size * scale, size, dtype=torch.float64)
        return result.scatter_add_(1, place, weights).to(x)

    height, width = x.shape[-2:]
    return matrix(height) @ x @ matrix(width).T
