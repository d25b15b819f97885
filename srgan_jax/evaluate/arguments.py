"""What the flags of the command mean: methods, and test sets."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from srgan_jax import files, pretrained, processes, weights
from srgan_jax.data import sources as data_sources
from srgan_jax.data.degradation import Degradation
from srgan_jax.errors import UserError
from srgan_jax.evaluate import pairs, report
from srgan_jax.evaluate.methods import BASELINES, Method, baseline, network
from srgan_jax.evaluate.workdirs import NETWORKS


class Weights(NamedTuple):
    """What the networks given are: how they enlarge, from where, and the paper's name for them."""

    methods: dict[str, Method]
    files: dict[str, dict[str, str]]
    variants: dict[str, str]
    scale: int


@dataclasses.dataclass(frozen=True)
class TestSet:
    """Pairs of this process's share; and what their reading found, see `pairs.Folders`."""

    pairs: Iterable[pairs.Pair]
    files: list[list[Any]]  # of all shares: names, and bytes of HR
    count: int
    unreadable: list[str]
    converted: collections.Counter[str]


def load_weights(given: Iterable[str], scale: int | None) -> Weights:
    """The methods that --weights names, at --scale if given. Raises: UserError."""
    methods: dict[str, Method | str] = {}
    sources: dict[str, dict[str, str]] = {}
    variants: dict[str, str] = {}
    scales: dict[str, int] = {}

    def add(name: str, method: Method | str) -> None:
        if name in methods:
            raise UserError(f"--weights: the name {name!r} is there twice: give another, NAME=W")
        check_name("weights", name)
        methods[name] = method

    for text in given:
        name, path = split_name(text)
        if path in BASELINES:
            add(name or path, path)
            variants[name or path] = path
            continue
        for label, file in exports(name, path):
            exported = weights.load_generator(file)
            add(label, network(exported.generator, exported.variables))
            sources[label] = {"file": pretrained.label(file), "sha256": files.sha256(file)}
            scales[str(file)] = exported.generator.scale
            known = report.variant(exported.metadata)
            if known:
                variants[label] = known
    if scale is not None:
        scales[f"--scale={scale}"] = scale
    if len(set(scales.values())) > 1:
        listed = ", ".join(f"{name} by {scale}" for name, scale in scales.items())
        raise UserError(f"not all enlarge alike ({listed}): measure them one after the other")
    scale = next(iter(scales.values()), 4)
    if scale < 2:
        raise UserError(f"--scale={scale}: must be at least 2")
    ready = {
        name: baseline(method, scale) if isinstance(method, str) else method
        for name, method in methods.items()
    }
    return Weights(ready, sources, variants, scale)


def exports(name: str, given: str) -> list[tuple[str, pathlib.Path]]:
    """The files that --weights stands for, with the names of their methods. Raises: UserError."""
    try:
        path = pretrained.find(given, "--weights")
    except UserError as error:
        raise UserError(f"{error}, nor one of {', '.join(BASELINES)}") from error
    if not path.is_dir():
        return [(name or path.stem, path)]
    found = [file for n in NETWORKS if (file := path / f"{n}.safetensors").exists()]
    if not found:
        raise UserError(f"--weights={path}: a folder without srresnet or srgan.safetensors")
    if len(found) == 1 and name:
        return [(name, found[0])]
    return [(f"{name}-{file.stem}" if name else file.stem, file) for file in found]


def split_name(text: str) -> tuple[str, str]:
    """NAME=VALUE, or a value without a name, which may hold "=" where it exists."""
    name, equals, value = text.partition("=")
    return (name, value) if equals and not pathlib.Path(text).exists() else ("", text)


def check_name(flag: str, name: str) -> None:
    """Raises: UserError for a name that cannot be a folder's."""
    if "/" in name or name in (".", ".."):
        raise UserError(f"--{flag}: the name {name!r} can be no folder's: give another, NAME=...")


def named_folders(flag: str, given: list[str]) -> dict[str, str]:
    """Folders by name, from several NAME=DIR. Raises: UserError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--{flag}={text}: give NAME=DIR")
        check_name(flag, name)
        if name in found:
            raise UserError(f"--{flag}: the name {name!r} is there twice")
        found[name] = str(pathlib.Path(folder).expanduser())  # which a shell does not after "="
    return found


def find_sets(
    given: list[str], given_lr: list[str], results: dict[str, str], scale: int
) -> dict[str, TestSet]:
    """The sets that --data names, with --lr_data and --results of each. Raises: UserError."""
    if not given:
        raise UserError("--data is missing: NAME=DIR with HR pictures, or builtin")
    folders = named_folders("data", [text for text in given if text != "builtin"])
    lr_folders = named_folders("lr_data", given_lr)
    unknown = sorted(lr_folders.keys() - folders.keys())
    if unknown:
        raise UserError(f"--lr_data={unknown[0]}=...: there is no --data={unknown[0]}=DIR")
    if "builtin" in given and "builtin" in folders:
        raise UserError("--data: the name 'builtin' is there twice")
    sets: dict[str, TestSet] = {}
    if "builtin" in given:
        if results:
            raise UserError("--results cannot be measured on --data=builtin: give NAME=DIR")
        pictures = data_sources.load(source="builtin", path="", split="validation")
        named = zip(pictures.names, pictures.images, strict=True)
        made = [pairs.make_pair(*item, Degradation(scale)) for item in named]
        share = made[processes.index() :: processes.count()]
        sets["builtin"] = TestSet(
            share,
            [[pair.name, pair.hr.nbytes] for pair in made],
            len(made),
            [],
            collections.Counter(),
        )
    for label, folder in folders.items():
        own = {}
        for name, path in results.items():
            below = pathlib.Path(path) / label
            if len(folders) > 1 and not below.is_dir():
                raise UserError(
                    f"--results={name}={path}: of several sets, a folder with one for each:"
                    f" {below} is not there"
                )
            own[name] = str(below) if below.is_dir() else path
        found = pairs.find(label, folder, scale, lr_folders.get(label), own)
        listed = [[file.name, file.stat().st_size] for file in found.hr.values()]
        sets[label] = TestSet(found.read(), listed, len(listed), found.unreadable, found.converted)
    return sets


def chosen(flag: str, given: list[str], known: Iterable[str]) -> tuple[str, ...]:
    """The values of a list flag, in their own order. Raises: UserError for an unknown one."""
    for name in given:
        if name in ("niqe", "lpips"):
            raise UserError(f"--{flag}={name}: it needs weights, give --{name}=FILE")
        if name not in known:
            raise UserError(f"--{flag}={name}: must be of {', '.join(known)}")
    if not given:
        raise UserError(f"--{flag} is empty: give some of {', '.join(known)}")
    return tuple(given)
