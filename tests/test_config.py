"""The paper's values, what is refused and how it is named, lengths, and every config file."""

import json
import runpy

import pytest

from srgan_jax import config, pretrained, remarks, weights
from srgan_jax.errors import UserError
from srgan_jax.models import vgg


def edited(**values):
    """The paper's config with `group__key=value` set."""
    c = config.paper()
    for key, value in values.items():
        *groups, name = key.split("__")
        node = c
        for group in groups:
            node = node[group]
        node[name] = value
    return c


def refusal(c) -> str:
    with pytest.raises(UserError) as error:
        config.validate(c)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def get_config(root):
    """`get_config(name, *argument)`: what configs/NAME.py gives."""

    def load(name: str, *argument: str):
        return runpy.run_path(str(root / "configs" / f"{name}.py"))["get_config"](*argument)

    return load


def test_the_papers_values():
    """Method.md: Networks, Losses, Training."""
    c = config.paper()
    config.validate(c)
    assert (c.generator.blocks, c.generator.channels, c.generator.scale) == (16, 64, 4)
    assert (c.generator.norm, c.generator.output, c.generator.base) == ("batch", "linear", "none")
    assert (c.discriminator.channels, c.discriminator.dense) == (64, 1024)
    assert (c.discriminator.slope, c.discriminator.head) == (0.2, "flatten")
    assert (c.data.crop, c.data.batch_size, c.data.degradation) == (96, 16, ("bicubic",))
    assert (c.vgg.layers, c.vgg.channels) == (("relu5_4",), "sum")
    assert c.vgg.feature_scale == pytest.approx(1 / 12.75)
    assert c.optim.beta1 == 0.9
    assert [config.learning_rate_of(c, name) for name in config.PHASES] == [1e-4, 1e-4]
    assert (c.pretrain.steps, c.pretrain.schedule) == (1_000_000, "constant")
    assert c.pretrain.content.to_dict() == {"pixel": 1.0, "vgg": 0.0, "tv": 0.0}
    assert (c.gan.steps, c.gan.schedule) == (200_000, "step")
    assert (c.gan.decay_at, c.gan.decay_factor) == (0.5, 0.1)
    assert c.gan.content.to_dict() == {"pixel": 0.0, "vgg": 1.0, "tv": 0.0}
    assert (c.gan.adversarial, c.gan.adversarial_weight) == ("nonsaturating", 1e-3)
    assert c.gan.discriminator_updates == 1


def test_a_phases_learning_rate_follows_the_common_one_until_it_has_its_own():
    c = edited(optim__learning_rate=3e-4)
    assert [config.learning_rate_of(c, name) for name in config.PHASES] == [3e-4, 3e-4]
    c.gan.learning_rate = 1e-5
    assert [config.learning_rate_of(c, name) for name in config.PHASES] == [3e-4, 1e-5]


@pytest.mark.parametrize(
    "key",
    [
        "parallel", "data.source", "data.damaged", "data.placement", "data.uniform_over",
        "generator.norm",
        "generator.activation", "generator.prelu", "generator.mid", "generator.upsample",
        "generator.input", "generator.output", "generator.base", "discriminator.head",
        "vgg.channels", "pretrain.schedule", "gan.schedule", "gan.adversarial", "eval.source",
        "eval.best",
    ],
)  # fmt: skip
def test_a_wrong_choice_is_named_with_the_right_ones(key):
    message = refusal(edited(**{key.replace(".", "__"): "wrong"}))
    assert message.startswith(f"config.{key}='wrong': must be one of '")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("data.batch_size", 0),
        ("data.crop", 0),
        ("data.crop", 98),  # not a multiple of 4
        ("data.degradation", ("blur",)),
        ("data.degradation", ("bicubic", "gaussian")),
        ("data.degradation", ("bicubic", "jpg")),
        ("data.blur_sigma", (0.0, 1.0)),
        ("data.blur_sigma", (2.0, 1.0)),
        ("data.noise_sigma", (-1.0, 1.0)),
        ("data.noise_sigma", (1.0,)),
        ("data.jpeg_quality", (50, 101)),
        ("data.jpeg_quality", (50.5, 60)),
        ("data.jpeg_quality", (50.0, 95.0)),
        ("data.jpeg_quality", (True, 95)),
        ("data.noise_sigma", (False, True)),
        ("data.min_detail", -1.0),
        ("data.min_detail", 60000.0),
        ("generator.scale", 5),
        ("generator.kernel", 5),
        ("generator.blocks", 0),
        ("generator.channels", 0),
        ("discriminator.channels", 0),
        ("discriminator.dense", 0),
        ("vgg.layers", ()),
        ("vgg.layers", ("relu6_1",)),
        ("vgg.layer_weights", (1.0, 2.0)),
        ("optim.learning_rate", 0.0),
        ("pretrain.learning_rate", -1e-4),
        ("gan.learning_rate", 0.0),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("optim.beta1", 1.0),
        ("optim.epsilon", -1.0),
        ("gan.decay_at", 3.0),
        ("gan.decay_factor", -1.0),
        ("gan.adversarial_weight", -1.0),
        ("vgg.feature_scale", 0.0),
        ("vgg.layer_weights", (-1.0,)),
        ("discriminator.slope", -5.0),
        ("pretrain.steps", -1),
        ("gan.warmup_steps", -1),
        ("gan.content.vgg", -1.0),
        ("gan.discriminator_updates", 0),
        ("checkpoint.every_steps", 0),
        ("checkpoint.keep", 0),
        ("checkpoint.keep_every", -1),
        ("checkpoint.keep_best", -1),
        ("log.every_steps", 0),
        ("eval.every_steps", 0),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    message = refusal(edited(**{key.replace(".", "__"): value}))
    assert message.startswith(f"config.{key}={value!r}: must be ")


def test_what_is_best_by_is_what_validation_measures():
    for metric in ("", "paper/psnr", "paper/mse", "full/ssim"):
        config.validate(edited(eval__best=metric))
    message = refusal(edited(eval__best="psnr"))
    assert "'paper/psnr'" in message
    assert "'modern/ssim'" in message
    message = refusal(edited(eval__best="", checkpoint__keep_best=2))
    assert "config.checkpoint.keep_best=2" in message
    assert "--config.eval.best" in message


def test_a_phase_without_a_content_loss_is_refused():
    assert "config.pretrain.content" in refusal(edited(pretrain__content__pixel=0.0))


def test_tanh_on_a_bicubic_base_is_refused():
    message = refusal(edited(generator__base="bicubic", generator__output="tanh"))
    assert "config.generator.output='tanh': must be 'linear'" in message


@pytest.mark.parametrize("upsample", ["nearest", "direct"])
def test_icnr_without_stages_of_shuffles_is_refused(upsample):
    message = refusal(edited(generator__icnr=True, generator__upsample=upsample))
    assert f"config.generator.upsample='{upsample}': must be 'shuffle' with icnr" in message


def test_every_vgg_layer_is_accepted():
    for layer in vgg.LAYERS:
        config.validate(edited(vgg__layers=(layer,)))


# Lengths


def test_lengths_in_steps_epochs_and_examples():
    c = config.paper()
    assert config.steps_of(c, "gan", steps_per_epoch=10) == 200_000
    for unit, length, expected in [("epochs", 2.5, 25), ("examples", 161, 11)]:  # batches of 16
        config.set_length(c.gan, unit)
        c.gan[unit] = length
        config.validate(c)
        assert config.steps_of(c, "gan", steps_per_epoch=10) == expected
    assert config.steps_of(c, "pretrain", steps_per_epoch=10) == 1_000_000
    config.set_length(c.gan, "epochs")
    c.gan.epochs = 3.0
    assert config.steps_of(c, "gan", steps_per_epoch=0.25) == 1  # pictures fewer than a batch


def test_two_lengths_and_none_are_refused():
    message = refusal(edited(gan__epochs=3.0))
    assert "config.gan" in message
    assert "steps=200000 and epochs=3.0" in message
    message = refusal(edited(pretrain__steps=None))
    assert "config.pretrain: give one of steps, epochs, examples, not none" in message


def test_a_length_on_the_command_line_replaces_the_files():
    c = edited(gan__epochs=3.0)
    config.prefer_overrides(c, {"gan.epochs": 3.0, "data.crop": 96})
    assert (c.gan.steps, c.gan.epochs, c.gan.examples) == (None, 3.0, None)
    assert c.pretrain.steps == 1_000_000
    config.validate(c)


def test_two_lengths_on_the_command_line_are_refused():
    c = edited(gan__epochs=3.0, gan__examples=100, gan__steps=None)
    config.prefer_overrides(c, {"gan.epochs": 3.0, "gan.examples": 100})
    assert "epochs=3.0 and examples=100" in refusal(c)


# JSON


def test_json_is_plain_and_whole():
    c = edited(gan__learning_rate=1e-5)
    values = config.to_json(c)
    assert json.loads(json.dumps(values)) == values
    assert values["gan"]["learning_rate"] == 1e-5
    assert values["pretrain"]["epochs"] is None
    assert values["vgg"]["layers"] == ["relu5_4"]
    assert set(values) == set(c)


# Config files


def test_every_config_file_is_valid_and_says_what_it_is(root):
    files = sorted((root / "configs").glob("*.py"))
    assert len(files) >= 3
    for file in files:
        module = runpy.run_path(str(file))
        config.validate(module["get_config"]())
        assert f"--config=configs/{file.name}" in module["__doc__"]


PIXEL, PERCEPTUAL = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)  # weights of pixel, vgg, tv

# Method.md, Losses and Table 1: pre-training's content, the GAN's, its steps, the VGG layer.
TABLE_1 = {
    "vgg54": (PIXEL, PERCEPTUAL, 200_000, "relu5_4"),
    "vgg22": (PIXEL, PERCEPTUAL, 200_000, "relu2_2"),
    "mse": (PIXEL, PIXEL, 200_000, None),
    "srresnet_mse": (PIXEL, None, 0, None),
    "srresnet_vgg22": ((0.0, 1.0, 2e-8), None, 0, "relu2_2"),
}


@pytest.mark.parametrize("variant", TABLE_1)
def test_variants_are_the_columns_of_table_1(get_config, variant):
    pretraining, gan, gan_steps, layer = TABLE_1[variant]
    c = get_config("srgan", variant)
    config.validate(c)
    weights = c.pretrain.content
    assert (weights.pixel, weights.vgg, weights.tv) == pretraining
    assert c.pretrain.steps == 1_000_000
    assert c.gan.steps == gan_steps
    if gan:
        weights = c.gan.content
        assert (weights.pixel, weights.vgg, weights.tv) == gan
        assert c.gan.adversarial_weight == 1e-3
    if layer:
        assert c.vgg.layers == (layer,)
        assert c.vgg.layer_weights == (1.0,)


def test_the_default_variant_is_the_paper(get_config):
    assert config.to_json(get_config("srgan")) == config.to_json(config.paper())


@pytest.mark.parametrize(("run", "epochs", "batch_size"), [("a", 750, 8), ("b", 4000, 1)])
def test_the_reports_runs(get_config, run, epochs, batch_size):
    c = get_config("report", run)
    config.validate(c)
    assert (c.data.batch_size, c.data.crop, c.data.degradation) == (batch_size, 256, ("gaussian",))
    assert c.pretrain.epochs + c.gan.epochs == epochs
    assert (c.generator.blocks, c.discriminator.slope) == (15, 0.01)
    assert len(c.vgg.layers) == len(c.vgg.layer_weights) > 1
    assert config.steps_of(c, "gan", steps_per_epoch=2) == epochs


@pytest.mark.parametrize("name", ["srgan", "report", "quickstart"])
def test_an_unknown_variant_is_named_with_the_known(get_config, name):
    with pytest.raises(UserError, match=r"unknown .* 'nonsense': one of "):
        get_config(name, "nonsense")


@pytest.mark.parametrize("variant", ["scratch", "pretrained"])
def test_the_quickstart_needs_nothing_that_is_not_there(get_config, variant):
    c = get_config("quickstart", variant)
    config.validate(c)
    assert c.data.source == c.eval.source == "builtin"
    assert c.pretrain.content.vgg == c.gan.content.vgg == 0


def test_the_quickstart_fits_the_weights_that_it_starts_from(get_config):
    c = get_config("quickstart", "pretrained")
    assert config.has_steps(c, "gan")
    assert not config.has_steps(c, "pretrain")
    if c.init_from not in pretrained.names():
        pytest.skip(f"{c.init_from} does not come with the package yet")
    held = weights.load_generator(pretrained.find(c.init_from)).generator
    assert weights.generator_of(c.generator.to_dict()) == held


def test_the_common_learning_rate_on_the_command_line_is_every_phases():
    c = edited(pretrain__learning_rate=1e-3, gan__learning_rate=1e-5)
    config.prefer_overrides(c, {"optim.learning_rate": 1e-4, "gan.learning_rate": 1e-5})
    assert [config.learning_rate_of(c, name) for name in config.PHASES] == [1e-4, 1e-5]


def test_a_path_that_nothing_reads_is_refused():
    assert "config.data.source=folder" in refusal(edited(data__source="builtin", data__path="x"))


@pytest.mark.parametrize("source", ["builtin", "tfds"])
def test_lr_pictures_belong_to_a_folder(source):
    message = refusal(edited(data__source=source, data__lr_path="x"))
    assert message.startswith("config.data.lr_path=x but config.data.source is")
    assert "--config.data.source=folder" in message
    config.validate(edited(data__source="folder", data__lr_path="x"))


def test_a_little_of_an_epoch_is_a_step_and_an_epoch_counts_every_batch():
    c = edited(gan__discriminator_updates=2)
    config.set_length(c.gan, "epochs")
    c.gan.epochs = 0.01
    assert config.steps_of(c, "gan", 10) == 1
    c.gan.epochs = 3.0
    assert config.steps_of(c, "gan", 10) == 15


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, []),
        ({"checkpoint__keep_best": 2, "eval__every_steps": 10_000}, []),
        ({"eval__every_steps": 3000}, []),
        (
            {"checkpoint__keep_best": 2, "eval__every_steps": 3000},
            ["eval.every_steps=3000 and checkpoint.every_steps=5000 meet every 15000 steps"],
        ),
        ({"data__degradation": ("gaussian",)}, []),
        ({"data__lr_path": "x", "eval__lr_path": "y"}, []),
        (
            {"data__lr_path": "x", "eval__lr_path": "y", "data__degradation": ("gaussian",)},
            ["data.degradation=('gaussian',) is not trained on"],
        ),
        ({"data__lr_path": "x"}, ["validation is on LR pictures made by data.degradation="]),
    ],
    ids=str,
)
def test_remarks(values, said):
    lines = list(remarks.of(edited(**values)))
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part in line
        assert "\n" not in line


def test_steps_of_a_dispatch_must_end_where_something_is_due():
    message = refusal(edited(steps_per_dispatch=30))
    assert message == "config.log.every_steps=100: must be a multiple of steps_per_dispatch=30"
    config.validate(edited(steps_per_dispatch=50))


def test_detail_is_counted_in_crops_that_its_numbers_can_hold():
    assert "at most 1024" in refusal(edited(data__min_detail=1.0, data__crop=1028))


def test_degradation_of_an_earlier_run_is_taken_over():
    trained = edited(data__degradation=("blur", "bicubic"), data__blur_sigma=(1.0, 2.0))
    fresh = config.paper()
    config.adopt_degradation(fresh, config.to_json(trained))
    assert fresh.data.degradation == ("blur", "bicubic")
    assert fresh.data.blur_sigma == (1.0, 2.0)
    earlier = config.to_json(config.paper())
    earlier["data"] |= {"degradation": "gaussian", "blur_sigma": 1.3}
    config.adopt_degradation(fresh, earlier)
    assert fresh.data.degradation == ("gaussian",)
    assert fresh.data.blur_sigma == (1.3, 1.3)


def test_qualities_are_asked_for_as_whole_numbers():
    assert "must be two whole numbers" in refusal(edited(data__jpeg_quality=(50.0, 95.0)))
    assert "must be two numbers" in refusal(edited(data__noise_sigma=(2.0, 1.0)))
    config.validate(edited(data__noise_sigma=(0, 1.5)))
