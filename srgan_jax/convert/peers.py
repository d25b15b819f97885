"""The generators of PyTorch's SRGAN projects as PyTorch modules, with their parameters' names.

To compare a converted generator with what it was (`--verify`, tests). Needs PyTorch. Inputs and
outputs are NCHW, RGB, in the range of each project (`generators.Layout`).
"""

import torch
from torch import nn
from torch.nn import functional


def _conv(inputs: int, outputs: int, kernel: int = 3, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def _shuffle(channels: int, factor: int) -> nn.Sequential:
    return nn.Sequential(_conv(channels, factor**2 * channels), nn.PixelShuffle(factor))


class _Named(nn.Module):
    """A module whose forward pass is given: for the names of what it holds."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def _residual(channels: int, bias: bool = True) -> dict[str, nn.Module]:
    return {
        "conv1": _conv(channels, channels, bias=bias),
        "bn1": nn.BatchNorm2d(channels),
        "prelu": nn.PReLU(),
        "conv2": _conv(channels, channels, bias=bias),
        "bn2": nn.BatchNorm2d(channels),
    }


class _Block(_Named):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.prelu(self.bn1(self.conv1(x)))
        return x + self.bn2(self.conv2(y))


class _Up(_Named):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.prelu(functional.pixel_shuffle(self.conv(x), 2))


def _up(channels: int) -> _Up:
    return _Up(conv=_conv(channels, 4 * channels), prelu=nn.PReLU())


class Leftthomas(_Named):
    """leftthomas/SRGAN: `block1` to `block{n + 3}`, output (tanh + 1) / 2."""

    def __init__(self, *, blocks: int, channels: int, factors: tuple[int, ...], early: bool):
        modules: dict[str, nn.Module] = {"block1": nn.Sequential(_conv(3, channels, 9), nn.PReLU())}
        for i in range(blocks):
            modules[f"block{i + 2}"] = _Block(**_residual(channels))
        mid = nn.PReLU() if early else nn.BatchNorm2d(channels)
        modules[f"block{blocks + 2}"] = nn.Sequential(_conv(channels, channels), mid)
        ups = [_up(channels) for _ in factors]
        modules[f"block{blocks + 3}"] = nn.Sequential(*ups, _conv(channels, 3, 9))
        super().__init__(**modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *body, last = self.children()
        skip = x = first(x)
        for block in body:
            x = block(x)
        return (last(skip + x).tanh() + 1) / 2


class _Rcb(nn.Module):
    """Lornatang's block of 2022, one sequence."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rcb = nn.Sequential(*_residual(channels, bias=False).values())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.rcb(x)


class Lornatang(nn.Module):
    """Lornatang/SRGAN-PyTorch, by the names of its modules."""

    def __init__(
        self,
        *,
        blocks: int,
        channels: int,
        factors: tuple[int, ...],
        head: str,
        mid: str,
        tail: str,
        block: str,
        up: str,
    ) -> None:
        super().__init__()
        self.order = (head, "trunk", mid, up.split(".")[0], tail)
        self.add_module(head, nn.Sequential(_conv(3, channels, 9), nn.PReLU()))
        if block.endswith("rcb"):
            trunk = [_Rcb(channels) for _ in range(blocks)]
            ups = [
                _Named(upsample_block=nn.Sequential(*_shuffle(channels, 2), nn.PReLU()))
                for _ in factors
            ]
        else:
            trunk = [_Block(**_residual(channels, bias=False)) for _ in range(blocks)]
            ups = [_up(channels) for _ in factors]
        self.add_module("trunk", nn.Sequential(*trunk))
        norm = nn.BatchNorm2d(channels)
        self.add_module(mid, nn.Sequential(_conv(channels, channels, bias=False), norm))
        self.add_module(self.order[3], nn.Sequential(*ups))
        self.add_module(tail, _conv(channels, 3, 9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        head, trunk, mid, ups, tail = (getattr(self, name) for name in self.order)
        skip = head(x)
        x = skip + mid(trunk(skip))
        for up in ups:
            x = up.upsample_block(x) if hasattr(up, "upsample_block") else up(x)
        return tail(x)  # before their clamp to [0, 1]


class _PlainBlock(_Named):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.conv1(x).relu())


class MSRResNet(nn.Module):
    """MSRResNet of BasicSR, of mmagic, and of KAIR (MSRResNet1), by the names of its modules."""

    def __init__(
        self,
        *,
        blocks: int,
        channels: int,
        factors: tuple[int, ...],
        trunk: str,
        up: str,
        hr: str,
        up_slope: float,
    ) -> None:
        super().__init__()
        self.factors, self.trunk, self.up, self.hr, self.up_slope = factors, trunk, up, hr, up_slope
        self.conv_first = _conv(3, channels)
        body = [
            _PlainBlock(conv1=_conv(channels, channels), conv2=_conv(channels, channels))
            for _ in range(blocks)
        ]
        self.add_module(trunk, nn.Sequential(*body))
        for i, factor in enumerate(factors, 1):
            conv = _conv(channels, factor**2 * channels)
            outer, _, inner = up.format(i).partition(".")
            self.add_module(outer, _Named(**{inner: conv}) if inner else conv)
        self.add_module(hr, _conv(channels, channels))
        self.conv_last = _conv(channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.get_submodule(self.trunk)(functional.leaky_relu(self.conv_first(x), 0.1))
        for i, factor in enumerate(self.factors, 1):
            y = functional.pixel_shuffle(self.get_submodule(self.up.format(i))(y), factor)
            y = functional.leaky_relu(y, self.up_slope)
        y = functional.leaky_relu(self.get_submodule(self.hr)(y), 0.1)
        height, width = y.shape[-2:]
        base = functional.interpolate(x, (height, width), mode="bilinear", align_corners=False)
        return base + self.conv_last(y)


class MSRResNet0(nn.Module):
    """KAIR's MSRResNet0 with ReLU, one flat sequence."""

    def __init__(self, *, blocks: int, channels: int, factors: tuple[int, ...], nearest: bool):
        super().__init__()

        def block() -> nn.Module:
            convolutions = _conv(channels, channels), nn.ReLU(), _conv(channels, channels)
            return _Added(res=nn.Sequential(*convolutions))

        body = [block() for _ in range(blocks)] + [_conv(channels, channels)]
        ups: list[nn.Module] = []
        for factor in factors:
            if nearest:
                ups += [nn.Upsample(scale_factor=factor, mode="nearest"), _conv(channels, channels)]
            else:
                ups += list(_shuffle(channels, factor))
            ups.append(nn.ReLU())
        tail = _conv(channels, channels), nn.ReLU(), _conv(channels, 3, bias=False)
        self.model = nn.Sequential(
            _conv(3, channels), _Added(sub=nn.Sequential(*body)), *ups, *tail
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class _Added(_Named):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (inner,) = self.children()
        return x + inner(x)


class Aitorzip(_Named):
    """aitorzip/PyTorch-SRGAN: swish, input and output standardised as ImageNet's pictures."""

    def __init__(self, *, blocks: int, channels: int, factors: tuple[int, ...]) -> None:
        modules: dict[str, nn.Module] = {"conv1": _conv(3, channels, 9)}
        for i in range(blocks):
            parts = _residual(channels)
            del parts["prelu"]
            modules[f"residual_block{i + 1}"] = _SwishBlock(**parts)
        modules |= {"conv2": _conv(channels, channels), "bn2": nn.BatchNorm2d(channels)}
        for i in range(len(factors)):
            modules[f"upsample{i + 1}"] = _Named(conv=_conv(channels, 4 * channels))
        super().__init__(**modules, conv3=_conv(channels, 3, 9))
        self.blocks, self.stages = blocks, len(factors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = x = functional.silu(self.conv1(x))
        for i in range(self.blocks):
            x = self.get_submodule(f"residual_block{i + 1}")(x)
        x = skip + self.bn2(self.conv2(x))
        for i in range(self.stages):
            x = self.get_submodule(f"upsample{i + 1}.conv")(x)
            x = functional.silu(functional.pixel_shuffle(x, 2))
        return self.conv3(x)


class _SwishBlock(_Named):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bn2(self.conv2(functional.silu(self.bn1(self.conv1(x)))))


class _ConvBlock(nn.Module):
    """sgrvinod's `ConvolutionalBlock`."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_block(x)


class Sgrvinod(nn.Module):
    """sgrvinod/a-PyTorch-Tutorial-to-Super-Resolution: standardised input, output in [-1, 1]."""

    def __init__(self, *, blocks: int, channels: int, factors: tuple[int, ...]) -> None:
        super().__init__()

        def normed(*activation: nn.Module) -> _ConvBlock:
            norm = nn.BatchNorm2d(channels)
            return _ConvBlock(_conv(channels, channels), norm, *activation)

        self.conv_block1 = _ConvBlock(_conv(3, channels, 9), nn.PReLU())
        self.residual_blocks = nn.Sequential(
            *(_SgrvinodBlock(conv_block1=normed(nn.PReLU()), conv_block2=normed())
              for _ in range(blocks))
        )  # fmt: skip
        self.conv_block2 = normed()
        self.subpixel_convolutional_blocks = nn.Sequential(*(_up(channels) for _ in factors))
        self.conv_block3 = _ConvBlock(_conv(channels, 3, 9), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.conv_block1(x)
        x = skip + self.conv_block2(self.residual_blocks(skip))
        return self.conv_block3(self.subpixel_convolutional_blocks(x))


class _SgrvinodBlock(_Named):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv_block2(self.conv_block1(x))
