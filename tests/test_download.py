"""Downloads against a real server on this machine: what goes well, and every way to fail."""

import hashlib
import http.server
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from srgan_jax import files
from srgan_jax.convert import download
from srgan_jax.errors import UserError

pytest.importorskip("filelock", reason="needs pip install 'srgan_jax[vgg]'")
pytest.importorskip("huggingface_hub", reason="needs pip install 'srgan_jax[vgg]'")

WHOLE = bytes(range(256)) * 12_000  # three of the pieces that are read at a time
MD5 = hashlib.md5(WHOLE).hexdigest()
WHAT = "ImageNet VGG19 of Keras"
COMMIT = "0123456789abcdef" * 2 + "01234567"

# Fetches when a line comes in, so that several of them can begin at once.
FETCH = f"""
import signal, sys
import filelock
from srgan_jax.convert import download
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind a shell's &
print("ready", flush=True)
sys.stdin.readline()
print(download.fetch(sys.argv[1], "{MD5}", what="{WHAT}"))
"""
FROM_HUB = f"""
import sys, time
time.sleep = lambda seconds: None  # the library's, between its retries
from srgan_jax.convert import download
try:
    print(download.fetch_from_hub(sys.argv[1], sys.argv[2], what="{WHAT}"))
except download.UserError as error:
    print(error)
    sys.exit(2)
"""

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


class Server(http.server.ThreadingHTTPServer):
    """Gives every request to `answer`, and counts the GETs of files."""

    def __init__(self, answer: Answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.gets: list[str] = []
        self.released = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.url = f"{self.address}/some/folder/weights.h5?raw=true"

    def handle_error(self, request, client_address):
        """Say nothing of clients that went away."""


class _Handler(Handler):
    def do_GET(self):  # noqa: N802
        if "/api/" not in self.path:  # where huggingface_hub asks for other things
            self.server.gets.append(self.path)
        self.server.answer(self)

    def do_HEAD(self):  # noqa: N802
        self.server.answer(self)

    def log_message(self, *args):
        pass


def send(request: Handler, body: bytes, length: int | None = None, status: int = 200, **headers):
    """The body, under a Content-Length that may be another one's."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def whole(request: Handler) -> None:
    send(request, WHOLE)


def silent(request: Handler) -> None:
    """Nothing, until the test is over."""
    request.server.released.wait(30)


def half_then_silent(request: Handler) -> None:
    send(request, WHOLE[: len(WHOLE) // 2], len(WHOLE))
    silent(request)


def hub(request: Handler) -> None:
    """What the Hugging Face hub answers for the one file of its one repository."""
    there = {"X_Repo_Commit": COMMIT}
    if request.path == "/org/vgg/resolve/main/weights.h5":
        send(request, WHOLE, ETag=f'"{hashlib.sha256(WHOLE).hexdigest()}"', **there)
    elif request.path.startswith("/org/vgg/"):
        send(request, b"", status=404, X_Error_Code="EntryNotFound", **there)
    else:
        send(request, b"", status=401, X_Error_Code="RepoNotFound")


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    """`serve(answer)`: a server that runs until the test is over."""
    servers = []

    def start(answer: Answer) -> Server:
        server = Server(answer)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty cache folder, and no proxy before this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "srgan_jax"


@pytest.fixture
def start(root) -> Iterator[Callable[[str], subprocess.Popen]]:
    """`start(url)`: a process that is ready to fetch it, killed when the test is over."""
    processes = []

    def begin(url: str) -> subprocess.Popen:
        command = [sys.executable, "-c", FETCH, url]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=root, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def fetch(url: str) -> pathlib.Path:
    return download.fetch(url, MD5, what=WHAT)


def refused(url: str, *words: str) -> str:
    """One line that says what, why, and how to do without network; nothing is left behind."""
    with pytest.raises(UserError) as refusal:
        fetch(url)
    message = str(refusal.value)
    assert "\n" not in message
    assert len(message) < 600
    assert message.startswith(f"{WHAT}: ")
    path = files.cache_folder() / "weights.h5"
    for word in (*words, url, f"md5 {MD5}", f"put it at {path}"):
        assert word in message
    return message


def names(folder: pathlib.Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_cache_folder(monkeypatch, tmp_path, folder):
    assert files.cache_folder() == folder
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert files.cache_folder() == tmp_path / "home" / ".cache" / "srgan_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == tmp_path / "home" / ".cache" / "srgan_jax"


def test_a_file_is_downloaded_once_and_quietly(serve, folder, capfd):
    server = serve(whole)
    path = fetch(server.url)
    assert path == folder / "weights.h5"
    assert path.read_bytes() == WHOLE
    assert names(folder) == [".weights.h5.lock", "weights.h5"]
    server.shutdown()
    server.server_close()
    assert fetch(server.url) == path
    assert len(server.gets) == 1
    assert capfd.readouterr() == ("", "")


def test_others_may_read_it_as_the_umask_says(serve):
    umask = os.umask(0o022)
    try:
        assert fetch(serve(whole).url).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(umask)


def test_a_terminal_sees_the_progress(serve, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    path = fetch(serve(whole).url)
    out, err = capfd.readouterr()
    assert out == ""
    last = err.replace("\n", "\r").strip("\r").split("\r")[-1]
    assert last.startswith("weights.h5: 100%")
    assert "2.93M/2.93M" in last
    path.unlink()
    refused(serve(truncated).url)
    assert capfd.readouterr().err.endswith("\n")  # before the line of the error


def test_a_file_that_the_user_put_there_is_taken(folder, monkeypatch):
    folder.mkdir(parents=True)
    (folder / "weights.h5").write_bytes(WHOLE)
    monkeypatch.setitem(sys.modules, "filelock", None)  # the extra is not needed either
    assert fetch("http://127.0.0.1:1/weights.h5") == folder / "weights.h5"
    assert names(folder) == ["weights.h5"]


def test_a_file_with_another_sum_is_replaced_or_told(serve, folder):
    folder.mkdir(parents=True)
    (folder / "weights.h5").write_bytes(b"the wrong one")
    wrong = hashlib.md5(b"the wrong one").hexdigest()
    server = serve(lambda request: send(request, b"", status=503))
    refused(server.url, "HTTP Error 503", f"where a file with md5 {wrong} is now")
    assert (folder / "weights.h5").read_bytes() == b"the wrong one"
    server.answer = whole
    assert fetch(server.url).read_bytes() == WHOLE


def truncated(request: Handler) -> None:
    send(request, WHOLE[:1000], len(WHOLE))


def truncated_without_length(request: Handler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(WHOLE[:1000])


def not_there(request: Handler) -> None:
    send(request, b"", status=404)


def broken(request: Handler) -> None:
    send(request, b"<p>\n" * 99, status=500)


SUM_OF_1000 = f"expected md5 {MD5}, got {hashlib.md5(WHOLE[:1000]).hexdigest()}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(truncated, f"closed {len(WHOLE) - 1000} bytes too early", id="truncated"),
        pytest.param(truncated_without_length, SUM_OF_1000, id="truncated without length"),
        pytest.param(lambda request: send(request, WHOLE[:1000]), SUM_OF_1000, id="another sum"),
        pytest.param(not_there, "HTTP Error 404: Not Found", id="404"),
        pytest.param(broken, "HTTP Error 500: Internal Server Error", id="500"),
        pytest.param(lambda request: None, "closed connection", id="no answer"),
        pytest.param(silent, "timed out", id="silent"),
        pytest.param(half_then_silent, "timed out", id="silent after half"),
        pytest.param(
            lambda request: request.wfile.write(b"no HTTP\r\n\r\n"), "no HTTP", id="not HTTP"
        ),
    ],
)
def test_what_a_server_does_wrong(serve, folder, monkeypatch, answer, reason):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server = serve(answer)
    refused(server.url, "cannot be downloaded", reason)
    assert names(folder) == [".weights.h5.lock"]
    assert len(server.gets) == 1
    server.answer = whole
    monkeypatch.setattr(download, "TIMEOUT", 30)
    assert fetch(server.url).read_bytes() == WHOLE


def test_no_server(monkeypatch, folder):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused(f"http://127.0.0.1:{port}/weights.h5", "([Errno 111] Connection refused)")

    def unknown(*args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    try:
        raise KeyError("what a caller handles")
    except KeyError:  # is no reason why there is no such name
        refused("http://nowhere.invalid/weights.h5", "([Errno -2] Name or service not known)")
    refused("htp://nowhere.invalid/weights.h5", "unknown url type: htp")
    assert names(folder) == [".weights.h5.lock"]


def test_a_proxy_is_used(serve, monkeypatch):
    server = serve(whole)
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setattr(urllib.request, "_opener", None)  # read once in each process
    assert fetch("http://nowhere.invalid/weights.h5").read_bytes() == WHOLE
    assert server.gets == ["http://nowhere.invalid/weights.h5"]


def test_several_processes_download_once(serve, start, folder):
    server = serve(lambda request: (server.released.wait(30), whole(request)))
    processes = [start(server.url) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    wait_for(lambda: server.gets)
    time.sleep(0.5)  # in which the others would ask, too
    server.released.set()
    for process in processes:
        out, err = process.communicate(timeout=20)
        assert (out, err, process.returncode) == (f"{folder / 'weights.h5'}\n", "", 0)
    assert len(server.gets) == 1
    assert (folder / "weights.h5").read_bytes() == WHOLE
    assert names(folder) == [".weights.h5.lock", "weights.h5"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_leaves_nothing_in_the_way(serve, start, folder, number):
    server = serve(half_then_silent)
    process = start(server.url)
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(lambda: folder.is_dir() and any(each.stat().st_size for each in folder.iterdir()))
    process.send_signal(number)
    assert process.wait(20) == -number
    assert not (folder / "weights.h5").exists()
    assert number == signal.SIGKILL or names(folder) == [".weights.h5.lock"]
    server.answer = whole
    assert fetch(server.url).read_bytes() == WHOLE
    assert names(folder) == [".weights.h5.lock", "weights.h5"]


def test_a_folder_that_cannot_be_written(serve, tmp_path, monkeypatch):
    server = serve(whole)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    reason = f"to {tmp_path / 'file' / 'srgan_jax'} ([Errno 20] Not a directory"
    refused(server.url, reason, "XDG_CACHE_HOME")
    assert server.gets == []


def test_a_full_disk(serve, folder):
    server = serve(whole)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        refused(server.url, f"to {folder} ([Errno 27] File too large)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder) == [".weights.h5.lock"]


@pytest.mark.parametrize("library", ["filelock", "huggingface_hub"])
def test_a_missing_library(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    if library == "huggingface_hub":
        with pytest.raises(UserError, match=rf"^{WHAT}: .*huggingface_hub.*-e \.\[vgg\]$"):
            download.fetch_from_hub("org/vgg", "weights.h5", what=WHAT)
    else:
        refused("http://127.0.0.1:1/weights.h5", library, "pip install -e .[vgg], or ")


@pytest.fixture
def from_hub(serve, root, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """`from_hub(repo, filename, **environment)`: the status, the one line, and the rest."""
    address = serve(hub).address

    def run(repo: str, filename: str, **environment: str) -> tuple[int, str, str]:
        # In a process, since the library reads its environment when it is imported.
        others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", FROM_HUB, repo, filename],
            cwd=root,
            env=others | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.count("\n") == 1, done.stderr
        return done.returncode, done.stdout.strip(), done.stderr

    return run


def test_a_file_of_the_hub_is_downloaded_and_found_again_without_it(from_hub, tmp_path):
    status, line, rest = from_hub("org/vgg", "weights.h5")
    assert (status, rest) == (0, "")
    path = pathlib.Path(line)
    assert path.read_bytes() == WHOLE
    assert path.is_relative_to(tmp_path / "hub")
    for without in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}):
        assert from_hub("org/vgg", "weights.h5", **without)[:2] == (0, line)


def test_what_the_hub_has_not(from_hub):
    for repo, filename, reason, advice in (
        ("org/vgg", "other.h5", "HTTP status 404", "check the file's name"),
        ("org/other", "weights.h5", "HTTP status 401", "check the repository's name, or log in"),
        ("no/such/name", "weights.h5", "Repo id must be", "check the repository's name"),
    ):
        status, line, rest = from_hub(repo, filename)
        assert (status, rest) == (2, "")
        assert line.startswith(f"{WHAT}: cannot be had from http://127.0.0.1:")
        for word in (f"/{repo}, {filename} ({reason}", advice):
            assert word in line


def test_no_way_to_the_hub_or_its_cache(from_hub, tmp_path):
    (tmp_path / "file").touch()
    for environment, reason in (
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "([Errno 111] Connection refused)"),
        ({"HF_HOME": f"{tmp_path}/file"}, "[Errno 20] Not a directory"),
    ):
        status, line, _ = from_hub("org/vgg", "weights.h5", **environment)
        assert status == 2
        cache = environment.get("HF_HOME", f"{tmp_path}/hub") + "/hub/models--org--vgg"
        for word in (f"{WHAT}: ", reason, f"or copy {cache} from a machine"):
            assert word in line
