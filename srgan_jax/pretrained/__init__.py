"""Trained generators that come with the package: the `NAME.safetensors` of this folder.

docs/models.md says how each was trained, and what it is good for.
"""

import os
import pathlib

from srgan_jax.errors import UserError

FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """The generators that are there, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def default() -> str:
    """The name of the generator that is taken where none is given.

    That is `srgan`, the paper's network, where it is there: it is to be trained on a GPU yet. Till
    then it is `srresnet-fast`, whose results are cleaner than those of `srgan-fast`.
    """
    return "srgan" if "srgan" in names() else "srresnet-fast"


def find(given: str | os.PathLike | None, key: str = "") -> pathlib.Path:
    """The file or folder that a user means by a path, or by one of `names`; None: the default's.

    What exists at the path comes first. `key` is the flag or the like that it was given by.

    Raises: UserError, naming the key and what comes with the package, where there is neither.
    """
    if given is None:
        return FOLDER / f"{default()}.safetensors"
    path = os.path.expanduser(given)  # which a shell does not after "="
    if os.path.exists(path):
        return pathlib.Path(path)
    known = names()
    if str(given) in known:
        return FOLDER / f"{given}.safetensors"
    shipped = "no weights come with this package"
    if known:
        shipped = f"none of {', '.join(known)}, which come with the package"
    raise UserError(f"{key}{'=' if key else ''}{given}: no such file, and {shipped}")


def label(path: pathlib.Path) -> str:
    """What a file is called: by the name of one of `names`, else by its path."""
    return path.stem if path.parent == FOLDER else str(path)
