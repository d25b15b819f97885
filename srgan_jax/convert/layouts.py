"""How PyTorch's SRGAN projects store their generators.

A layout says which module of theirs is which layer of ours, and what its tensors do not tell.
Blocks, channels, scale, kernel sizes, slopes and normalisation come from the tensors.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from srgan_jax.errors import UserError

ACCEPTED = (
    "generators of leftthomas/SRGAN, Lornatang/SRGAN-PyTorch, BasicSR, mmagic, KAIR,"
    " aitorzip/PyTorch-SRGAN, sgrvinod's tutorial, and srgan_jax's own"
)


class Layout(NamedTuple):
    """How one project stores its generator.

    Attributes:
      project: whose.
      peer: the class in `convert.peers` that is this network, and its own arguments.
      modules: our layer's name to theirs.
      switches: of our `Generator`, where the tensors do not tell.
      slopes: our layer's name to the slope of an activation that has no parameters there.
      no_bias: beginnings of our layers' names, convolutions without a bias there.
      output: the range of its result: "unit", "signed", or "imagenet", standardised.
      guessed: what was assumed, in words.
    """

    project: str
    peer: tuple[str, dict[str, Any]]
    modules: dict[str, str]
    switches: dict[str, Any] = {}  # noqa: RUF012, never changed
    slopes: dict[str, float] = {}  # noqa: RUF012
    no_bias: tuple[str, ...] = ()
    output: str = "unit"
    guessed: tuple[str, ...] = ()


def _count(names: Collection[str], pattern: str, start: int = 0) -> int:
    """How many consecutive numbers from `start` on the pattern has among the names."""
    n = 0
    while pattern.format(start + n) in names:
        n += 1
    return n


_PARTS = ("conv1", "bn1", "prelu", "conv2", "bn2")


def _blocks(
    count: int,
    pattern: str,
    theirs: tuple[str, ...],
    parts: tuple[str, ...] = _PARTS,
    start: int = 0,
) -> dict[str, str]:
    """The layers of residual blocks, `pattern` giving the module of the block of a number."""
    return {
        f"block{i}_{ours}": f"{pattern.format(start + i)}.{name}"
        for i in range(count)
        for ours, name in zip(parts, theirs, strict=True)
    }


def _ups(count: int, conv: str, prelu: str | None = None, start: int = 0) -> dict[str, str]:
    """The layers of enlarging stages."""
    names = {f"up{i}_conv": conv.format(start + i) for i in range(count)}
    if prelu is not None:
        names |= {f"up{i}_prelu": prelu.format(start + i) for i in range(count)}
    return names


def _leftthomas(names: Collection[str]) -> Layout | None:
    if "block1.1.weight" not in names:
        return None
    n = _count(names, "block{}.conv1.weight", 2)
    mid, up = f"block{n + 2}", f"block{n + 3}"
    stages = _count(names, up + ".{}.conv.weight")
    early = f"{mid}.1.running_mean" not in names
    return Layout(
        "leftthomas/SRGAN" + (", its early version" if early else ""),
        ("Leftthomas", {"early": early}),
        {"conv_in": "block1.0", "prelu_in": "block1.1"}
        | _blocks(n, "block{}", _PARTS, start=2)
        | {"conv_mid": f"{mid}.0", "prelu_mid" if early else "bn_mid": f"{mid}.1"}
        | _ups(stages, up + ".{}.conv", up + ".{}.prelu")
        | {"conv_out": f"{up}.{stages}"},
        {"output": "tanh", "mid": "prelu" if early else "norm"},
    )


class _Lornatang(NamedTuple):
    """The names of one of its versions; `parts` and `up_parts` within a block and a stage."""

    head: str
    mid: str
    tail: str
    block: str
    parts: tuple[str, ...]
    up: str
    up_parts: tuple[str, str]


_NUMBERED = ("0", "1", "2", "3", "4")
_LORNATANG = (
    _Lornatang(  # 2022 and later
        *("conv1", "conv2", "conv3", "trunk.{}.rcb", _NUMBERED),
        *("upsampling.{}.upsample_block", ("0", "2")),
    ),
    _Lornatang(  # early 2022
        *("conv_block1", "conv_block2", "conv_block3", "trunk.{}.rcb", _NUMBERED),
        *("upsampling.{}.upsample_block", ("0", "2")),
    ),
    _Lornatang(  # 2021
        *("conv1", "conv2", "conv3", "trunk.{}", _PARTS, "subpixel_conv.{}", ("conv", "prelu"))
    ),
    _Lornatang(  # early 2021
        *("conv1", "conv2", "conv3", "trunk.{}", _PARTS, "upsampling.{}", ("conv", "prelu"))
    ),
)


def _lornatang(names: Collection[str]) -> Layout | None:
    for version in _LORNATANG:
        head, mid, tail, block, parts, up, (conv, prelu) = version
        n = _count(names, f"{block}.{parts[0]}.weight")
        stages = _count(names, f"{up}.{conv}.weight")
        if not (n and stages and f"{head}.0.weight" in names):
            continue
        if f"{tail}.0.weight" in names:
            raise UserError(
                "looks like Lornatang/SRGAN-PyTorch of 2021 with tanh: its SR is tanh cut at 0,"
                " which srgan_jax's generator does not have; its other versions are accepted"
            )
        arguments = {"head": head, "mid": mid, "tail": tail, "block": block, "up": up}
        return Layout(
            "Lornatang/SRGAN-PyTorch",
            ("Lornatang", arguments),
            {"conv_in": f"{head}.0", "prelu_in": f"{head}.1"}
            | _blocks(n, block, parts)
            | {"conv_mid": f"{mid}.0", "bn_mid": f"{mid}.1"}
            | _ups(stages, f"{up}.{conv}", f"{up}.{prelu}")
            | {"conv_out": tail},
            no_bias=("block", "conv_mid"),
        )
    return None


def _msrresnet(names: Collection[str]) -> Layout | None:
    """BasicSR's, mmagic's, and KAIR's MSRResNet1, which is BasicSR's of before 2020."""
    for project, trunk, ups, hr, up_slope in (
        ("BasicSR", "body", "upconv{}", "conv_hr", 0.1),
        ("KAIR, or BasicSR before 2020", "recon_trunk", "upconv{}", "HRconv", 0.1),
        ("mmagic", "trunk_net", "upsample{}.upsample_conv", "conv_hr", 1.0),
    ):
        n = _count(names, f"{trunk}.{{}}.conv1.weight")
        if n and "conv_first.weight" in names and f"{hr}.weight" in names:
            stages = _count(names, f"{ups}.weight", 1)
            slopes = {"prelu_in": 0.1, "prelu_hr": 0.1}
            slopes |= {f"block{i}_prelu": 0.0 for i in range(n)}
            slopes |= {f"up{i}_prelu": up_slope for i in range(stages)}
            return Layout(
                f"{project}, MSRResNet",
                ("MSRResNet", {"trunk": trunk, "up": ups, "hr": hr, "up_slope": up_slope}),
                {"conv_in": "conv_first"}
                | _blocks(n, trunk + ".{}", ("conv1", "conv2"), ("conv1", "conv2"))
                | _ups(stages, ups, start=1)
                | {"conv_hr": hr, "conv_out": "conv_last"},
                {"kernel": 3, "mid": "none", "hr_conv": True, "base": "bilinear"},
                slopes,
            )
    return None


def _kair(names: Collection[str]) -> Layout | None:
    """KAIR's MSRResNet0 with ReLU, its modules in one flat sequence."""
    n = _count(names, "model.1.sub.{}.res.0.weight")
    convolutions = [i for i in range(2, 20) if f"model.{i}.weight" in names]
    if not n or "model.0.weight" not in names or len(convolutions) < 3:
        return None
    *ups, hr, out = convolutions
    nearest = ups[0] == 3  # after the module that enlarges
    stages = len(ups)
    activations = [f"block{i}_prelu" for i in range(n)] + [f"up{i}_prelu" for i in range(stages)]
    return Layout(
        "KAIR, MSRResNet0",
        ("MSRResNet0", {"nearest": nearest}),
        {"conv_in": "model.0"}
        | _blocks(n, "model.1.sub.{}", ("res.0", "res.2"), ("conv1", "conv2"))
        | {"conv_mid": f"model.1.sub.{n}"}
        | {f"up{i}_conv": f"model.{k}" for i, k in enumerate(ups)}
        | {"conv_hr": f"model.{hr}", "conv_out": f"model.{out}"},
        {"kernel": 3, "hr_conv": True, "upsample": "nearest" if nearest else "shuffle"},
        {"prelu_in": 1.0, "prelu_hr": 0.0} | dict.fromkeys(activations, 0.0),
        no_bias=("conv_out",),
        guessed=("the activation is ReLU (act_mode='R')",)
        + (("a single stage enlarges by 2",) if nearest and stages == 1 else ()),
    )


def _aitorzip(names: Collection[str]) -> Layout | None:
    n = _count(names, "residual_block{}.conv1.weight", 1)
    if not n or "upsample1.conv.weight" not in names:
        return None
    parts = ("conv1", "bn1", "conv2", "bn2")
    return Layout(
        "aitorzip/PyTorch-SRGAN",
        ("Aitorzip", {}),
        {"conv_in": "conv1"}
        | _blocks(n, "residual_block{}", parts, parts, start=1)
        | {"conv_mid": "conv2", "bn_mid": "bn2"}
        | _ups(_count(names, "upsample{}.conv.weight", 1), "upsample{}.conv", start=1)
        | {"conv_out": "conv3"},
        {"activation": "swish", "input": "imagenet"},
        output="imagenet",
    )


def _sgrvinod(names: Collection[str]) -> Layout | None:
    n = _count(names, "residual_blocks.{}.conv_block1.conv_block.0.weight")
    if not n:
        return None
    first, second = "conv_block1.conv_block.", "conv_block2.conv_block."
    block = (f"{first}0", f"{first}1", f"{first}2", f"{second}0", f"{second}1")
    up = "subpixel_convolutional_blocks.{}"
    return Layout(
        "sgrvinod/a-PyTorch-Tutorial-to-Super-Resolution",
        ("Sgrvinod", {}),
        {"conv_in": "conv_block1.conv_block.0", "prelu_in": "conv_block1.conv_block.1"}
        | _blocks(n, "residual_blocks.{}", block)
        | {"conv_mid": "conv_block2.conv_block.0", "bn_mid": "conv_block2.conv_block.1"}
        | _ups(_count(names, up + ".conv.weight"), up + ".conv", up + ".prelu")
        | {"conv_out": "conv_block3.conv_block.0"},
        {"input": "imagenet", "output": "tanh"},
        output="signed",
    )


def ours(names: Collection[str], architecture: dict[str, Any]) -> Layout:
    """What `exports.to_pytorch` wrote, maybe trained on: its layers' names are ours."""
    modules = {name.rpartition(".")[0] for name in names}
    return Layout(
        "srgan_jax, exported to PyTorch",
        ("SRResNet", architecture),
        {name: name for name in modules},
        architecture,
        output="signed",
    )


LAYOUTS: tuple[Callable[[Collection[str]], Layout | None], ...] = (
    _leftthomas, _lornatang, _msrresnet, _kair, _aitorzip, _sgrvinod,
)  # fmt: skip
