"""The exceptions that a user sees as a line, not as a traceback."""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend: bad config, bad file, missing data, full disk.

    The message is one line, names the file or the config key, and says what to do.
    `main` prints it and exits with status 2.
    """


class PeerError(UserError):
    """Another process of the run cannot be reached, which may be otherwise the next time.

    The exit status is 1: schedulers that start a command again do so, but not after a mistake.
    """


class StoppedError(BaseException):
    """SIGINT or SIGTERM where there is nothing to save; not an `Exception`, which is caught."""


def first_line(error: BaseException, most: int = 300) -> str:
    """The first non-empty line of an exception's text, or its type where it has none.

    Of a line of more than `most` characters the middle is left out: storage libraries put
    their whole state between what failed and why.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def some(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return between.join(names[:most]) + (f" and {more} more" if more > 0 else "")
