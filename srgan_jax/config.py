"""The configuration: every key with the paper's value, its checks, and lengths in steps.

`configs/*.py` start from `paper()` and say how a run differs.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

from srgan_jax.data import degradation
from srgan_jax.errors import UserError
from srgan_jax.metrics import conventions
from srgan_jax.models import generator, vgg


def paper() -> ConfigDict:
    """SRGAN-VGG54 as the paper trains it (section 3.2); data and checkpoints are ours."""
    c = ConfigDict()
    c.seed = 0
    c.parallel = "jit"  # "jit": one program over a mesh of the devices; "pmap": one a device
    c.deterministic = False  # True: the same bits again also on GPUs, which is slower

    c.dtype = "float32"  # what the networks compute in; "bfloat16" is faster on GPUs and TPUs:
    # parameters, statistics, losses and the last layers of both networks stay float32

    c.steps_per_dispatch = 0  # steps without the host between them; 0: 1 on CPUs, else up to 100

    c.data = ConfigDict()
    c.data.source = "tfds"  # "builtin", "folder" or "tfds"
    c.data.path = ""  # the folder; for tfds its data_dir ("" is tfds' own default)
    c.data.dataset = "div2k"  # for tfds
    c.data.lr_path = ""  # a folder of LR pictures that belong to those of the folder data.path;
    # "" makes them by `data.degradation`
    c.data.cache = ""  # folder to keep decoded pictures in, 3 bytes a pixel; "": the default one,
    # $XDG_CACHE_HOME/srgan_jax/pictures; "none": in memory only
    c.data.pictures = 0  # of all, so many are used, evenly spread over their names; 0: all
    c.data.placement = "auto"  # of the pictures: "device" memory or "host"; "auto": what fits
    c.data.batch_size = 16
    c.data.crop = 96  # side of the HR crops; the LR crops are `generator.scale` times smaller
    c.data.uniform_over = "pictures"  # crops are drawn alike often from each of the "pictures", or
    # from all "pixels": then more of them from large pictures
    c.data.min_detail = 0.0  # mean difference of neighbouring pixels, in levels of 255, below
    # which another place in the picture is tried (up to 8 in all); 0: none is rejected
    c.data.damaged = "stop"  # at files that cannot be read: "stop", or "skip" them
    c.data.degradation = ("bicubic",)  # how LR is made, in order: "blur", "noise", "jpeg", and one
    # of "bicubic" (MATLAB's) and "gaussian" (blur and subsampling); see data/degradation.py
    c.data.blur_sigma = (1.6, 1.6)  # of "blur" and "gaussian": lowest and highest, in pixels
    c.data.noise_sigma = (0.0, 10.0)  # of "noise": in levels of 255
    c.data.jpeg_quality = (50, 95)  # of "jpeg"

    c.generator = ConfigDict()  # see models/generator.py
    c.generator.scale = 4
    c.generator.blocks = 16
    c.generator.channels = 64
    c.generator.kernel = 9  # 9 or 3, of the first and last convolution
    c.generator.norm = "batch"  # "batch" or "none"
    c.generator.activation = "prelu"  # "prelu" or "swish"
    c.generator.prelu = "shared"  # "shared" or "channel"
    c.generator.mid = "norm"  # "norm", "prelu" or "none", between blocks and enlargement
    c.generator.upsample = "shuffle"  # "shuffle", "nearest" or "direct"
    c.generator.hr_conv = False
    c.generator.input = "unit"  # "unit" or "imagenet"
    c.generator.output = "linear"  # "linear" or "tanh"
    c.generator.base = "none"  # "none", "bicubic" or "bilinear"
    c.generator.icnr = False

    c.discriminator = ConfigDict()  # see models/discriminator.py
    c.discriminator.channels = 64
    c.discriminator.dense = 1024
    c.discriminator.slope = 0.2
    c.discriminator.head = "flatten"  # "flatten" or "pool"

    c.vgg = ConfigDict()
    c.vgg.path = "keras"  # a file of VGG19's weights, or one to download: "keras" or "timm"
    c.vgg.layers = ("relu5_4",)  # compared in the content loss: `conv` before ReLU, `relu` after
    c.vgg.layer_weights = (1.0,)  # one for each of `layers`
    c.vgg.feature_scale = 1 / 12.75  # on the features, so about 0.006 on the loss
    c.vgg.channels = "sum"  # over the features' channels, equation 5 read literally, or "mean";
    # with ImageNet weights as they are, watch grad_sr/ratio (README, "VGG19 weights")

    c.optim = ConfigDict()
    c.optim.learning_rate = 1e-4  # of both phases, unless a phase has its own
    c.optim.beta1 = 0.9
    c.optim.beta2 = 0.999
    c.optim.epsilon = 1e-8
    c.optim.accumulate = 1  # parts that each device takes its crops of a batch in, one after the
    # other, where they don't fit at once; BatchNorm then normalises each part by itself
    c.optim.sharded = False  # True: Adam's moments shared out over the devices, with "jit"
    c.ema_decay = 0.0  # moving average of the generator's parameters and statistics; 0: none
    c.init_from = ""  # a generator's .safetensors to start from, or the name of one that comes
    # with the package; "": random

    c.pretrain = _phase(steps=1_000_000)
    c.pretrain.content = ConfigDict({"pixel": 1.0, "vgg": 0.0, "tv": 0.0})  # weights of terms

    c.gan = _phase(steps=200_000)
    c.gan.schedule = "step"
    c.gan.content = ConfigDict({"pixel": 0.0, "vgg": 1.0, "tv": 0.0})
    c.gan.adversarial = "nonsaturating"  # or "saturating", "linear", "lsgan"
    c.gan.adversarial_weight = 1e-3
    c.gan.discriminator_updates = 1  # k, for each update of the generator

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 5_000
    c.checkpoint.keep = 3  # the latest so many
    c.checkpoint.keep_every = 0  # also those whose step is a multiple of this; 0: none
    c.checkpoint.keep_best = 0  # also so many of each phase, the best by `eval.best`; 0: none

    c.log = ConfigDict()
    c.log.every_steps = 100

    c.eval = ConfigDict()
    c.eval.source = "builtin"  # as data.source; the built-in set has one held-out photograph
    c.eval.path = ""
    c.eval.lr_path = ""  # as data.lr_path
    c.eval.dataset = "div2k"
    c.eval.damaged = "stop"  # as data.damaged
    c.eval.every_steps = 5_000
    c.eval.best = (
        "paper/psnr"  # CONVENTION/METRIC; the best generator by it is exported too; "": none
    )
    return c


def _phase(steps: int) -> ConfigDict:
    """Length and schedule of one phase. The length is one of steps, epochs and examples."""
    phase = ConfigDict()
    phase.steps = config_dict.placeholder(int)
    phase.epochs = config_dict.placeholder(float)
    phase.examples = config_dict.placeholder(int)
    phase.steps = steps
    phase.learning_rate = config_dict.placeholder(float)  # None: that of `optim`
    phase.schedule = "constant"  # "constant", "step" or "cosine"
    phase.decay_at = 0.5  # "step": at this fraction of the phase
    phase.decay_factor = 0.1  # "step": times this; "cosine": down to this times the rate
    phase.warmup_steps = 0
    return phase


# What validation measures, as `eval.best` names it.
MEASURED = tuple(
    f"{name}/{metric}"
    for name, convention in conventions.CONVENTIONS.items()
    for metric in conventions.METRICS
    if metric in convention.metrics
)

LENGTHS = ("steps", "epochs", "examples")
PHASES = ("pretrain", "gan")

_CHOICES = {
    "parallel": ("jit", "pmap"),
    "dtype": ("float32", "bfloat16"),
    "data.placement": ("auto", "device", "host"),
    "data.uniform_over": ("pictures", "pixels"),
    "data.source": ("builtin", "folder", "tfds"),
    "data.damaged": ("stop", "skip"),
    "discriminator.head": ("flatten", "pool"),
    "vgg.channels": ("sum", "mean"),
    "pretrain.schedule": ("constant", "step", "cosine"),
    "gan.schedule": ("constant", "step", "cosine"),
    "gan.adversarial": ("nonsaturating", "saturating", "linear", "lsgan"),
    "eval.source": ("builtin", "folder", "tfds"),
    "eval.damaged": ("stop", "skip"),
    "eval.best": ("", *MEASURED),
} | {f"generator.{switch}": values for switch, values in generator.CHOICES.items()}

_AT_LEAST = {
    "seed": 0,
    "steps_per_dispatch": 0,
    "data.min_detail": 0,
    "data.batch_size": 1,
    "data.pictures": 0,
    "data.crop": 1,
    "generator.blocks": 1,
    "generator.channels": 1,
    "discriminator.channels": 1,
    "discriminator.dense": 1,
    "gan.discriminator_updates": 1,
    "optim.accumulate": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep": 1,
    "checkpoint.keep_every": 0,
    "checkpoint.keep_best": 0,
    "log.every_steps": 1,
    "eval.every_steps": 1,
    "pretrain.warmup_steps": 0,
    "gan.warmup_steps": 0,
    "gan.adversarial_weight": 0,
    "discriminator.slope": 0,
}

_ABOVE_ZERO = (
    "vgg.feature_scale", "optim.learning_rate", "optim.epsilon",
    "pretrain.decay_factor", "gan.decay_factor",
)  # fmt: skip

_BELOW_ONE = ("ema_decay", "optim.beta1", "optim.beta2")


def set_length(phase: ConfigDict, unit: str) -> None:
    """Make `unit` the one length of a phase: the others become None."""
    for other in LENGTHS:
        if other != unit:
            phase[other] = None


def prefer_overrides(config: ConfigDict, overrides: dict[str, Any]) -> None:
    """Let what the command line gives replace what the config file says otherwise.

    A length replaces a phase's length in another unit; two lengths of one phase given there are
    left both, for `validate` to refuse. The common learning rate replaces that of a phase.

    Args:
      config: changed in place.
      overrides: keys given on the command line, such as "gan.epochs".
    """
    if "optim.learning_rate" in overrides:
        for name in PHASES:
            if f"{name}.learning_rate" not in overrides:
                config[name].learning_rate = None
    for name in PHASES:
        given = [unit for unit in LENGTHS if f"{name}.{unit}" in overrides]
        if len(given) == 1:
            set_length(config[name], given[0])


def steps_of(config: ConfigDict, name: str, steps_per_epoch: float) -> int:
    """The length of a phase in steps, whole, for a set that has so many steps an epoch."""
    phase = config[name]
    batches = config.gan.discriminator_updates if name == "gan" else 1  # a step
    if phase.steps is not None:
        return phase.steps
    if phase.epochs is not None:
        return math.ceil(phase.epochs * steps_per_epoch / batches)
    return math.ceil(phase.examples / (batches * config.data.batch_size))


def has_steps(config: ConfigDict, name: str) -> bool:
    """Whether a phase is trained at all, whatever the set."""
    return any(config[name][unit] for unit in LENGTHS)


def compares_features(config: ConfigDict) -> bool:
    """Whether a phase that is trained needs VGG19."""
    return any(config[name].content.vgg and has_steps(config, name) for name in PHASES)


def learning_rate_of(config: ConfigDict, name: str) -> float:
    """The learning rate of a phase: its own, or the common one."""
    own = config[name].learning_rate
    return config.optim.learning_rate if own is None else own


def validate(config: ConfigDict) -> None:
    """Refuse values that cannot be meant, naming the key. Raises: UserError."""

    def value(key: str) -> Any:
        node = config
        for part in key.split("."):
            node = node[part]
        return node

    def require(condition: bool, key: str, must: str) -> None:
        if not condition:
            raise UserError(f"config.{key}={value(key)!r}: must be {must}")

    for line in _not_finite(config):
        raise UserError(f"config.{line}: must be a finite number")
    for key, choices in _CHOICES.items():
        require(value(key) in choices, key, "one of " + ", ".join(map(repr, choices)))
    for key, least in _AT_LEAST.items():
        require(value(key) >= least, key, f"at least {least}")
    require(config.seed < 2**32, "seed", "below 2**32")
    for group in ("data", "eval"):
        if config[group].source == "builtin" and config[group].path:
            raise UserError(
                f"config.{group}.path={config[group].path} but config.{group}.source is 'builtin':"
                f" add --config.{group}.source=folder"
            )
        if config[group].lr_path and config[group].source != "folder":
            raise UserError(
                f"config.{group}.lr_path={config[group].lr_path} but config.{group}.source is"
                f" {config[group].source!r}: add --config.{group}.source=folder and {group}.path,"
                " the folder of the HR pictures"
            )
    if config.optim.sharded:
        require(config.parallel == "jit", "parallel", "'jit' with optim.sharded")
    for key in _BELOW_ONE:
        require(0 <= value(key) < 1, key, "from 0 to below 1")
    for key in _ABOVE_ZERO:
        require(value(key) > 0, key, "above 0")
    for name in PHASES:
        require(0 <= config[name].decay_at <= 1, f"{name}.decay_at", "from 0 to 1")
        rate = config[name].learning_rate
        require(rate is None or rate > 0, f"{name}.learning_rate", "above 0")
    scale = config.generator.scale
    require(config.data.crop % scale == 0, "data.crop", f"a multiple of generator.scale={scale}")
    if config.checkpoint.keep_best and not config.eval.best:
        raise UserError(
            f"config.checkpoint.keep_best={config.checkpoint.keep_best}: best by what? give"
            " --config.eval.best=CONVENTION/METRIC"
        )
    _validate_degradation(config.data, require)
    if config.steps_per_dispatch:
        for key in ("log.every_steps", "eval.every_steps", "checkpoint.every_steps"):
            must = f"a multiple of steps_per_dispatch={config.steps_per_dispatch}"
            require(value(key) % config.steps_per_dispatch == 0, key, must)
    if config.data.min_detail:  # whose sums are int32
        require(config.data.crop <= 1024, "data.crop", "at most 1024 with data.min_detail")
        require(config.data.min_detail <= 255, "data.min_detail", "at most 255 levels")
    if config.generator.icnr:
        require(config.generator.upsample == "shuffle", "generator.upsample", "'shuffle' with icnr")
    if config.generator.base != "none":
        require(config.generator.output == "linear", "generator.output", "'linear' on a base")
    for name in PHASES:
        given = [unit for unit in LENGTHS if config[name][unit] is not None]
        if len(given) != 1:
            had = " and ".join(f"{unit}={config[name][unit]}" for unit in given) or "none"
            raise UserError(f"config.{name}: give one of {', '.join(LENGTHS)}, not {had}")
        require(config[name][given[0]] >= 0, f"{name}.{given[0]}", "at least 0")
        content = config[name].content
        if not any(content.values()):
            terms = ", ".join(content)
            raise UserError(f"config.{name}.content: give one of {terms} a weight above 0")
        for term in content:
            require(content[term] >= 0, f"{name}.content.{term}", "at least 0")
    layers = config.vgg.layers
    require(len(layers) > 0, "vgg.layers", "at least one name")
    for layer in layers:
        known = f"of names {vgg.LAYERS[0]}, {vgg.LAYERS[1]}, ... {vgg.LAYERS[-1]}"
        require(layer in vgg.LAYERS, "vgg.layers", known)
    same = f"as many numbers as there are layers ({len(layers)})"
    require(len(config.vgg.layer_weights) == len(layers), "vgg.layer_weights", same)
    weights = config.vgg.layer_weights
    numbers = all(isinstance(weight, (int, float)) and weight >= 0 for weight in weights)
    require(numbers and any(weights), "vgg.layer_weights", "numbers of at least 0, not all 0")


def _validate_degradation(data: ConfigDict, require: Callable[[bool, str, str], None]) -> None:
    known = all(operation in degradation.OPERATIONS for operation in data.degradation)
    must = "names of " + ", ".join(degradation.OPERATIONS)
    require(known, "data.degradation", must + ", such as ('blur', 'bicubic')")
    shrinking = [name for name in data.degradation if name in degradation.SHRINKING]
    must = "one of " + " and ".join(degradation.SHRINKING) + " among them, once"
    require(len(shrinking) == 1, "data.degradation", must)
    for key, least, most in (
        ("blur_sigma", 0.01, 100), ("noise_sigma", 0, 255), ("jpeg_quality", 1, 100),
    ):  # fmt: skip
        ends = tuple(data[key])
        whole = key == "jpeg_quality"
        kinds = (int,) if whole else (int, float)  # by type: True is an int, too
        fine = len(ends) == 2 and all(type(end) in kinds for end in ends)
        numbers = "whole numbers" if whole else "numbers"
        must = f"two {numbers}, the lowest and the highest, from {least} to {most}"
        require(fine and least <= ends[0] <= ends[1] <= most, f"data.{key}", must)


def _not_finite(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Keys of floats that are infinite or NaN, as `key=value`."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _not_finite(value, f"{prefix}{key}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                yield f"{prefix}{key}={value}"


def adopt_degradation(config: ConfigDict, trained: dict[str, Any]) -> None:
    """Take over how a run made its LR images, from its config.json, to measure it likewise.

    Also of one from when `degradation` was a name and `blur_sigma` a number.
    """
    data = dict(trained["data"])
    if isinstance(data.get("degradation"), str):
        data["degradation"] = [data["degradation"]]
    if isinstance(data.get("blur_sigma"), (int, float)):
        data["blur_sigma"] = [data["blur_sigma"]] * 2
    config.generator.scale = trained["generator"]["scale"]
    for key in ("degradation", "blur_sigma", "noise_sigma", "jpeg_quality"):
        if key in data:
            config.data[key] = tuple(data[key])


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(config.to_json())
