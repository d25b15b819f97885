"""What may change of a run's config when it is continued, and what then changes."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from srgan_jax import config as config_lib

# Keys, or groups of them. These change neither what is learned nor what was validated.
HARMLESS = (
    "checkpoint", "data.cache", "data.damaged", "data.placement", "deterministic",
    "eval.every_steps", "log", "optim.sharded", "parallel", "steps_per_dispatch",
)  # fmt: skip

# Of those, these change neither the steps at which it validates nor how their numbers are rounded.
EXACT = ("checkpoint", "data.cache", "data.damaged", "log")

# These make another network, or a state of another form.
IMPOSSIBLE = ("discriminator", "generator")

# With another set of pictures, or measured otherwise, validations don't compare with earlier ones.
VALIDATION = (
    "data.blur_sigma", "data.degradation", "data.jpeg_quality", "data.noise_sigma", "eval",
)  # fmt: skip

_ABSENT = "absent"


class Change(NamedTuple):
    """A key that two configs differ in."""

    key: str  # such as "gan.steps"
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


class Changes(NamedTuple):
    """The differences of a config to that of the run it shall continue.

    Attributes:
      harmless: change nothing that is learned.
      learned: change what is learned from now on; the state stays valid.
      impossible: do not go with the state there is.
    """

    harmless: tuple[Change, ...] = ()
    learned: tuple[Change, ...] = ()
    impossible: tuple[Change, ...] = ()

    def lines(self) -> list[str]:
        """All as text."""
        return [str(change) for kind in self for change in kind]

    def exact(self) -> bool:
        """Whether steps that are done again give the same bits, and are validated as before."""
        return all(_is_of(change.key, EXACT) for kind in self for change in kind)

    def of_validation(self) -> bool:
        """Whether validations no longer compare with earlier ones."""
        return any(_is_of(change.key, VALIDATION) for change in self.learned)


def classify(old: dict[str, Any], new: ConfigDict) -> Changes:
    """What differs between the config.json of a run and a config.

    A key that `old` lacks, because its program had no such key, counts as the default.
    """
    asked = flat(config_lib.to_json(new))
    held = flat(config_lib.to_json(config_lib.paper())) | flat(old)
    kinds: dict[str, list[Change]] = {"harmless": [], "learned": [], "impossible": []}
    for key in sorted(held.keys() | asked.keys()):
        change = Change(key, held.get(key, _ABSENT), asked.get(key, _ABSENT))
        if change.old == change.new:
            continue
        if _is_of(key, HARMLESS):
            kind = "harmless"
        elif _is_of(key, IMPOSSIBLE) or _changes_form(change, asked):
            kind = "impossible"
        else:
            kind = "learned"
        kinds[kind].append(change)
    return Changes(**{kind: tuple(found) for kind, found in kinds.items()})


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested JSON objects by key, such as "gan.content.pixel"."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def _changes_form(change: Change, asked: dict[str, Any]) -> bool:
    """Whether the train state gets other arrays by a key that is not of the networks."""
    if change.key == "ema_decay":
        return bool(change.old) != bool(change.new)
    # The dense layer of this discriminator has as many inputs as its crop has places.
    has_discriminator = any(asked[f"gan.{unit}"] for unit in config_lib.LENGTHS)
    flatten = has_discriminator and asked["discriminator.head"] == "flatten"
    return change.key == "data.crop" and flatten


def _is_of(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
