"""Weights from the network: downloaded once, checked, and kept in a cache folder."""

import hashlib
import http.client
import os
import pathlib
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request

import tqdm

from srgan_jax import files
from srgan_jax.errors import UserError, first_line

TIMEOUT = 30
"""Seconds that a server may take to connect, and then to send anything at all."""

_EXTRA = "pip install -e .[vgg]"


def fetch(url: str, md5: str, *, what: str) -> pathlib.Path:
    """The file of the URL's last name in the cache folder, downloaded where it is not there.

    A file that is there with the right sum is taken as it is, and the network is not touched; one
    with another sum is replaced.
    Of several processes that need it at once, one downloads and the others wait for it.

    Args:
      url: http or https; proxies are taken from the environment.
      md5: of the whole file, in hexadecimal.
      what: the file in words, for messages.

    Raises: UserError where it cannot be downloaded, checked or kept, with the way to do without
      network. Then nothing has the final name that did not have it before.
    """
    folder = files.cache_folder()
    path = folder / pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name
    found = _md5(path)
    if found == md5:
        return path
    instead = f"download {url} (md5 {md5}) by hand and put it at {path}"
    if found:
        instead += f", where a file with md5 {found} is now"
    try:
        import filelock
    except ImportError as error:
        raise UserError(
            f"{what}: downloading it needs an extra ({first_line(error)}): {_EXTRA}, or {instead}"
        ) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The kernel releases it with its process. The file stays: to delete it would be a race.
        with filelock.FileLock(folder / f".{path.name}.lock"):
            if _md5(path) != md5:  # else another process has just downloaded it
                _download(url, md5, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"{what}: cannot be downloaded to {folder} ({_reason(error)}): check the network and"
            f" the disk (XDG_CACHE_HOME names another), or {instead}"
        ) from error
    return path


def fetch_from_hub(repo: str, filename: str, *, what: str) -> pathlib.Path:
    """A file of a model repository of the Hugging Face hub, in that library's own cache.

    HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and the login are as everywhere with `huggingface_hub`.
    A file downloaded before is taken as it is, and the network is not touched.

    Args:
      repo: `organisation/name`.
      filename: its path in the repository's branch `main`.
      what: the file in words, for messages.

    Raises: UserError where the file is neither downloaded nor in the cache.
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise UserError(
            f"{what}: downloading it needs an extra ({first_line(error)}): {_EXTRA}"
        ) from error
    try:
        # First what is there: it is the same in every run, and asks no network.
        try:
            found = huggingface_hub.hf_hub_download(repo, filename, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            found = huggingface_hub.hf_hub_download(repo, filename)
        return pathlib.Path(found)
    except Exception as error:  # also its HTTP library's, which is another one in each version
        if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
            advice = "check the repository's name, or log in (hf auth login) if it is not public"
        elif isinstance(error, errors.EntryNotFoundError) and not isinstance(
            error, errors.LocalEntryNotFoundError
        ):
            advice = "check the file's name"
        else:
            folder = pathlib.Path(constants.HF_HUB_CACHE, "models--" + repo.replace("/", "--"))
            advice = (
                f"check the network, or copy {folder} from a machine where it was downloaded before"
            )
        raise UserError(
            f"{what}: cannot be had from {constants.ENDPOINT}/{repo}, {filename}"
            f" ({_reason(error)}): {advice}"
        ) from error


def _download(url: str, md5: str, path: pathlib.Path) -> None:
    """Download to a file aside, which takes the final name when its sum is right.

    Raises: OSError, ValueError, http.client.HTTPException.
    """
    # Not pooch: where it fails it leaves its connection open, which is a ResourceWarning, and
    # where it is killed it leaves a file of a random name, which no later call removes.
    aside = path.with_name(f".{path.name}.partial")
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT) as response,
            tqdm.tqdm.wrapattr(
                response,
                "read",
                total=response.length,
                desc=path.name,
                disable=not sys.stderr.isatty(),
            ) as shown,
            open(aside, "wb") as file,
        ):
            shutil.copyfileobj(shown, file, 2**20)
            if response.length:  # urllib takes a connection closed early for the end
                raise ValueError(f"the connection was closed {response.length} bytes too early")
        got = _md5(aside)
        if got != md5:
            raise ValueError(f"expected md5 {md5}, got {got}")
        os.replace(aside, path)
    except urllib.error.HTTPError as error:
        error.close()  # it is the response, too
        raise
    finally:
        aside.unlink(missing_ok=True)


def _md5(path: pathlib.Path) -> str | None:
    """A file's sum in hexadecimal, None where there is no file that can be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return None


def _reason(error: BaseException) -> str:
    """What an error began with: HTTP libraries wrap it several times, in text for no user."""
    while isinstance(inner := error.__cause__ or next(iter(error.args), None), BaseException):
        error = inner
    response = getattr(error, "response", None)
    return first_line(error) if response is None else f"HTTP status {response.status_code}"
