"""Which files of two folders belong together, by their names."""

import pathlib
import re
from collections.abc import Iterable, Mapping

from srgan_jax.errors import UserError, some


def by_stem(where: str, names: Iterable[str]) -> dict[str, str]:
    """File names, with or without folders, by what they are without suffix.

    Args:
      where: the folder, as the message names it.
      names: of the files, relative to the folder.

    Raises: UserError where two files have one name.
    """
    stems: dict[str, str] = {}
    for name in names:
        stem = str(pathlib.PurePath(name).with_suffix(""))
        other = stems.setdefault(stem, name)
        if other is not name:
            raise UserError(f"{where}: {other} and {name} have one name: remove one")
    return stems


def match(
    where: str, given: Mapping[str, str], hr: Mapping[str, str], hr_where: str, scale: int
) -> dict[str, str]:
    """For each HR picture's stem, that of the file which belongs to it.

    A name may go on after the HR picture's, in the same sub-folder: `babyx4`, `baby_SRGAN` belong
    to `baby`.

    Args:
      where: the folder of the given files, as messages name it.
      given: their names by stem, see `by_stem`.
      hr: the names of the HR pictures by stem.
      hr_where: their folder.
      scale: HR over LR size.

    Raises: UserError, naming files that are missing, too many, or without HR picture.
    """
    ending = re.compile(rf"(x{scale})?([_\-. ][^/]*)?")

    def owner(stem: str) -> str | None:
        parts = ((stem[:end], stem[end:]) for end in range(len(stem), 0, -1))
        return next((s for s, rest in parts if s in hr and ending.fullmatch(rest)), None)

    matched: dict[str, str] = {}
    odd = []
    for stem, name in given.items():
        belongs = owner(stem)
        if belongs is None:
            odd.append(name)
        elif matched.setdefault(belongs, stem) != stem:
            raise UserError(f"{where}: {given[matched[belongs]]} and {name} are both {belongs}")
    missing = [name for stem, name in hr.items() if stem not in matched]
    reasons = [f"nothing for {some(missing)}"] if missing else []
    reasons += [f"no HR picture for {some(odd)}"] if odd else []
    if reasons:
        raise UserError(f"{where} does not pair with {hr_where}: {'; '.join(reasons)}")
    return matched
