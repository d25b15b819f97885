"""ImageNet VGG19 from other programs' files: every form, what is refused, and the download."""

import concurrent.futures
import functools
import hashlib
import http.server
import json
import os
import pathlib
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
import scipy.io

from srgan_jax import files
from srgan_jax.convert import tensors, verify, vgg19
from srgan_jax.errors import UserError
from srgan_jax.models import vgg

# Up to conv2_2: kernels as PyTorch has them, for RGB.
WIDTHS = {"conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128), "conv2_2": (128, 128)}
LAYERS = ("relu1_1", "pool1", "conv2_2", "relu2_2")


def random_weights() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.normal(0, (9 * inputs) ** -0.5, (outputs, inputs, 3, 3)).astype(np.float32),
            rng.normal(0, 0.1, outputs).astype(np.float32),
        )
        for name, (inputs, outputs) in WIDTHS.items()
    }


RANDOM = random_weights()
NUMBERS = {"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7}  # torchvision's


def hwio(*, bgr: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    layers = {name: (kernel.transpose(2, 3, 1, 0), bias) for name, (kernel, bias) in RANDOM.items()}
    if bgr:
        kernel, bias = layers["conv1_1"]
        layers["conv1_1"] = (kernel[:, :, ::-1], bias)
    return layers


def torchvision_names() -> dict[str, np.ndarray]:
    arrays = {}
    for name, (kernel, bias) in RANDOM.items():
        arrays[f"features.{NUMBERS[name]}.weight"] = kernel
        arrays[f"features.{NUMBERS[name]}.bias"] = bias
    return arrays


def keras_names() -> dict[str, np.ndarray]:
    """As in vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5."""
    arrays = {}
    for name, (kernel, bias) in hwio(bgr=True).items():
        block = "block{}_conv{}".format(*name.removeprefix("conv").split("_"))
        arrays[f"{block}/{block}_W_1:0"] = kernel
        arrays[f"{block}/{block}_b_1:0"] = bias
    return arrays


def write_pth(path, arrays, **others) -> None:
    torch = pytest.importorskip("torch", reason="writes PyTorch's form")
    state = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}
    torch.save({**state, **others}, path)


def write_h5(path, arrays, attributes=()) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in attributes]
        file.create_group("block1_pool")
        for name, array in arrays.items():
            file[name] = array


def write_torchvision(path) -> None:
    rest = {"classifier.0.weight": np.ones((4, 5), np.float32)}
    write_pth(path, torchvision_names() | rest)


def write_timm(path) -> None:
    rest = {"pre_logits.fc1.weight": np.ones((4, 5, 7, 7), np.float32)}
    arrays = {name: np.ascontiguousarray(x) for name, x in (torchvision_names() | rest).items()}
    safetensors.numpy.save_file(arrays, path)


def write_keras(path) -> None:
    write_h5(path, keras_names() | {"fc1/fc1_W_1:0": np.ones((3, 4), np.float32)})


def write_keras_model(path) -> None:
    """A whole model, as `model.save("vgg19.h5")` nests it."""
    nested = {
        f"model_weights/{name.split('/')[0]}/{name.split('/')[0]}/{kind}:0": array
        for name, array in keras_names().items()
        for kind in ["kernel" if array.ndim == 4 else "bias"]
    }
    write_h5(path, nested)


def write_matconvnet(path, fields=("weights",)) -> None:
    """MatConvNet's struct: a cell array of layers; its files of 2014 have `filters`, `biases`."""
    layers = []
    for name, (kernel, bias) in hwio(bgr=False).items():
        layer = {"name": name, "type": "conv"}
        if fields == ("weights",):
            cell = np.empty((1, 2), object)
            cell[0, 0], cell[0, 1] = kernel, bias[None]
            layer["weights"] = cell
        else:
            layer |= {"filters": kernel, "biases": bias[:, None]}
        layers += [layer, {"name": name.replace("conv", "relu"), "type": "relu"}]
    cells = np.empty((1, len(layers)), object)
    cells[0, :] = layers
    scipy.io.savemat(path, {"layers": cells, "meta": {"classes": "none"}})


def write_old_matconvnet(path) -> None:
    write_matconvnet(path, fields=("filters", "biases"))


def write_npy(path) -> None:
    """The classic vgg19.npy: a pickled dict, its layers in any order, as Python 2 wrote it."""
    layers = {name: list(layer) for name, layer in reversed(hwio(bgr=True).items())}
    layers["fc6"] = [np.ones((4, 5), np.float32), np.ones(5, np.float32)]
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        pickle.dump(np.array(layers, object), file, protocol=2)


def write_npz(path) -> None:
    arrays = {
        name.split("/")[0] + (".kernel" if array.ndim == 4 else ".bias"): array
        for name, array in keras_names().items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


FORMS = [
    (write_torchvision, vgg.TORCH), (write_timm, vgg.TORCH), (write_keras, vgg.CAFFE),
    (write_keras_model, vgg.CAFFE), (write_matconvnet, vgg.CAFFE),
    (write_old_matconvnet, vgg.CAFFE), (write_npy, vgg.CAFFE), (write_npz, vgg.CAFFE),
]  # fmt: skip


@pytest.mark.parametrize(("write", "normalisation"), FORMS)
def test_every_form_gives_the_same_parameters(write, normalisation, tmp_path):
    path = tmp_path / "file"  # its name tells nothing
    write(path)
    network, params = vgg19.load(str(path), LAYERS)
    assert network == vgg.VGG19(LAYERS, normalisation)
    assert set(params) == set(RANDOM)
    for name, (kernel, bias) in RANDOM.items():
        np.testing.assert_array_equal(params[name]["kernel"], kernel.transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(params[name]["bias"], bias)

    # Converted, it is the same, and its input's normalisation travels with it.
    found = vgg19.find(path, tensors.read(path))
    vgg19.save(tmp_path / "ours.safetensors", found)
    again, same = vgg19.load(str(tmp_path / "ours.safetensors"), LAYERS)
    assert again == network
    for name, layer in params.items():
        for kind, array in layer.items():
            np.testing.assert_array_equal(same[name][kind], array)


@pytest.mark.parametrize(("write", "normalisation"), FORMS)
def test_features_are_those_of_pytorch_on_the_files_own_tensors(write, normalisation, tmp_path):
    pytest.importorskip("torch", reason="compares with PyTorch")
    write(tmp_path / "file")
    found = vgg19.find("file", tensors.read(tmp_path / "file"))
    image = np.random.default_rng(0).random((1, 20, 24, 3), np.float32) * 2 - 1
    differences = verify.vgg19_differences(found, image)
    assert list(differences) == list(vgg.LAYERS[: vgg.LAYERS.index("relu2_2") + 1])
    assert max(differences.values()) <= 1e-5


def test_features_of_imagenets_weights_are_pytorchs(shared):
    """As weights/README.md there says, and independently of what we believe of such files."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    from PIL import Image

    path = shared / "weights" / "vgg19_imagenet_conv1_1-conv3_4.npz"
    with Image.open(shared / "data" / "benchmarks" / "Set5" / "HR" / "butterfly.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))[40:88, 60:124]
    image = pixels.astype(np.float32)[None] / 127.5 - 1
    layers = ("conv1_1", "relu2_2", "pool2", "conv3_4", "relu3_4")
    network, params = vgg19.load(str(path), layers)
    ours = network.apply({"params": params}, image)

    means = np.array([103.939, 116.779, 123.68], np.float32)  # B, G, R
    x = torch.from_numpy(((image[..., ::-1] + 1) * 127.5 - means).transpose(0, 3, 1, 2).copy())
    theirs = {}
    with np.load(path) as file:
        for stage, count in ((1, 2), (2, 2), (3, 4)):
            for i in range(1, count + 1):
                key = f"block{stage}_conv{i}"
                kernel = torch.from_numpy(file[f"{key}.kernel"].transpose(3, 2, 0, 1).copy())
                bias = torch.from_numpy(file[f"{key}.bias"])
                x = torch.nn.functional.conv2d(x, kernel, bias, padding=1)
                theirs[f"conv{stage}_{i}"] = x
                theirs[f"relu{stage}_{i}"] = x = x.relu()
            theirs[f"pool{stage}"] = x = torch.nn.functional.max_pool2d(x, 2)
    for name in layers:
        expected = theirs[name].numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours[name], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("bgr", [False, True])
def test_oxfords_weights_are_recognised_under_other_names(bgr, shared, tmp_path):
    """Such as vgg19-d01eb7cb.pth of style transfer: Caffe's weights by torchvision's names."""
    path = shared / "weights" / "vgg19_imagenet_conv1_1-conv3_4.npz"
    expected, same = vgg19.load(str(path), ("relu1_2",))
    arrays = {}
    for name in ("conv1_1", "conv1_2"):
        kernel = same[name]["kernel"].transpose(3, 2, 0, 1)
        kernel = kernel[:, ::-1] if bgr and name == "conv1_1" else kernel
        arrays[f"features.{NUMBERS[name]}.weight"] = np.ascontiguousarray(kernel)
        arrays[f"features.{NUMBERS[name]}.bias"] = same[name]["bias"]
    safetensors.numpy.save_file(arrays, tmp_path / "other")
    network, params = vgg19.load(str(tmp_path / "other"), ("relu1_2",))
    assert network == expected
    np.testing.assert_array_equal(params["conv1_1"]["kernel"], same["conv1_1"]["kernel"])


KERAS = """
import keras, numpy as np, sys
folder = sys.argv[1]
keras.utils.set_random_seed(0)
model = keras.applications.VGG19(weights=None, include_top=False)
model.save(f"{folder}/model.h5")
image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
names = ["block1_conv2", "block3_pool", "block5_conv4"]
features = keras.Model(model.inputs, [model.get_layer(name).output for name in names])
outputs = features(keras.applications.vgg19.preprocess_input(image.copy()))
np.savez(f"{folder}/features.npz", image=image, **dict(zip(names, map(np.asarray, outputs))))
"""


def test_a_model_that_keras_wrote(tmp_path):
    pytest.importorskip("h5py")
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    there = [sys.executable, "-c", "import keras"]
    if subprocess.run(there, capture_output=True, env=environment).returncode:
        pytest.skip("compares with Keras")
    subprocess.run([sys.executable, "-c", KERAS, str(tmp_path)], env=environment, check=True)
    layers = {"block1_conv2": "relu1_2", "block3_pool": "pool3", "block5_conv4": "relu5_4"}
    network, params = vgg19.load(str(tmp_path / "model.h5"), tuple(layers.values()))
    with np.load(tmp_path / "features.npz") as theirs:
        ours = network.apply({"params": params}, theirs["image"] / 127.5 - 1)
        for name, layer in layers.items():
            expected = theirs[name]
            assert np.ptp(expected) > 0
            np.testing.assert_allclose(ours[layer], expected, atol=1e-4 * expected.max())


def test_a_file_that_stops_short_names_the_layer(tmp_path):
    write_npz(tmp_path / "vgg19.npz")
    assert set(vgg19.load(str(tmp_path / "vgg19.npz"), ("relu1_2",))[1]) == {"conv1_1", "conv1_2"}
    with pytest.raises(UserError, match=r"vgg19\.npz: has no conv3_1, which relu5_4 needs"):
        vgg19.load(str(tmp_path / "vgg19.npz"), ("relu5_4", "relu1_2"))


def refused(path, write) -> str:
    write(path)
    with pytest.raises(UserError) as caught:
        vgg19.load(str(path), ("relu1_1",))
    message = str(caught.value)
    assert message.startswith("config.vgg.path")
    assert str(path) in message
    assert "\n" not in message
    return message


def without_gap(names):
    def write(path):
        arrays = torchvision_names() | {n: np.ones((4, 4, 3, 3), np.float32) for n in names}
        write_pth(path, arrays)

    return write


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (without_gap(["features.17.weight"]), "not VGG19 without BatchNorm: it has features.17"),
        (without_gap(["features.3.weight"]), "not VGG19 without BatchNorm: it has features.3"),
        (without_gap(["features.12.weight"]), "it has no conv3_1, but deeper layers"),
    ],
    ids=["VGG16", "BatchNorm", "a gap"],
)
def test_another_vgg_is_not_taken_for_vgg19(write, says, tmp_path):
    assert says in refused(tmp_path / "vgg.pth", write)


def change(name, array):
    def write(path):
        arrays = torchvision_names() | {name: array}
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)

    return write


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (change("features.0.weight", np.ones((64, 64, 3, 3), np.float32)), "not (64, 3, 3, 3)"),
        (change("features.2.bias", np.ones(3, np.float32)), "features.2.bias is (3,), not (64,)"),
        (change("features.2.bias", np.full(64, np.nan, np.float32)), "not finite"),
        (change("features.0.bias", np.ones((1, 64), np.float32)), "a kernel and a bias are wanted"),
    ],
)
def test_tensors_that_do_not_fit_are_named(write, says, tmp_path):
    assert says in refused(tmp_path / "vgg19", write)


def write_bytes(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (write_bytes(b""), "an empty file"),
        (write_bytes(b"hello"), "looks like text"),
        (write_bytes(b"\n<!DOCTYPE html><html>404</html>"), "a web page: the download failed"),
        (write_bytes(b"\x1f\x8b rest"), "unpack it"),
        (write_bytes(b"MATLAB 7.3 MAT-file, Platform"), "save it with -v7"),
        (write_bytes(b"\x89PNG\r\n"), "looks like a picture"),
        (write_bytes(bytes(range(40, 256))), "a file of an unknown kind"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: np.save(path.open("wb"), np.ones(3)), "a single array"),
        (lambda path: np.savez(path.open("wb"), a=np.ones(3)), "no VGG19"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file")  # of the lambdas above
def test_files_that_are_something_else(write, says, tmp_path):
    assert says in refused(tmp_path / "file", write)


@pytest.mark.parametrize(("write", "normalisation"), FORMS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_half_a_download(write, normalisation, share, tmp_path):
    def cut(path):
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    message = refused(tmp_path / "file", cut)
    assert "get it again" in message


def test_a_pickled_array_that_is_none(tmp_path):
    """NumPy's own classes would make an array of objects from these bytes, and follow them."""
    state = (1, (), np.dtype("O"), False, b"A" * 8)

    class Forged:
        def __reduce__(self):
            reconstruct = np.array(0).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), state

    def write(path):
        with path.open("wb") as file:
            np.save(file, np.array({"conv1_1": Forged()}, object))

    assert "it holds an array of 'O8'" in refused(tmp_path / "evil", write)


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_and_blocked_functions(tmp_path):
    """What PyTorch says of them would have the user switch its safety off."""
    torch = pytest.importorskip("torch", reason="writes PyTorch's form")

    class System:
        def __reduce__(self):
            return os.system, ("exit",)

    assert "is not run" in refused(tmp_path / "a", lambda path: torch.save({"x": System()}, path))
    script = torch.jit.script(torch.nn.Conv2d(3, 3, 3))
    assert "is not run" in refused(tmp_path / "b", lambda path: torch.jit.save(script, str(path)))


def test_a_generator_of_ours_is_no_vgg19(tmp_path):
    from srgan_jax import weights
    from srgan_jax.models.generator import Generator
    from srgan_jax.state import Variables

    generator = Generator(blocks=1, channels=2)
    save = functools.partial(
        weights.save_generator,
        generator=generator,
        variables=Variables({"block1_conv1": {"kernel": np.ones((3, 3, 3, 64))}}, {}),
        training={},
    )
    assert "no VGG19" in refused(tmp_path / "g.safetensors", save)


@pytest.mark.parametrize("form", [".pth", "old .pth", ".npy"])
def test_pickled_code_is_not_run(form, tmp_path):
    touched = tmp_path / "touched"
    pickle.loads(pickle.dumps(Evil(touched)))  # it would, wherever it was loaded
    assert touched.exists()
    touched.unlink()

    def write(path):
        if form == ".npy":
            with path.open("wb") as file:
                np.save(file, np.array({"conv1_1": Evil(touched)}, object))
        else:
            torch = pytest.importorskip("torch", reason="writes PyTorch's form")
            zipped = form == ".pth"
            torch.save({"x": Evil(touched)}, path, _use_new_zipfile_serialization=zipped)

    message = refused(tmp_path / "evil", write)
    assert "pickled Python code, which is not run" in message or "not only arrays" in message
    assert not touched.exists()


@pytest.mark.parametrize(
    ("library", "write", "extra"),
    [("h5py", write_keras, "[vgg]"), ("torch", write_torchvision, "[convert]")],
)
def test_a_library_that_is_missing_is_named(library, write, extra, tmp_path, monkeypatch):
    write(tmp_path / "file")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r"pip install -e \.") as caught:
        vgg19.load(str(tmp_path / "file"), ("relu1_1",))
    assert extra in str(caught.value)


def test_safetensors_whose_first_byte_is_that_of_a_pickle(tmp_path):
    """The length of the header, which comes first, may be anything."""
    for spaces in range(256):
        data = safetensors.numpy.save({"x": np.ones(3)}, metadata={"filler": " " * spaces})
        if data.startswith(b"\x80"):
            break
    assert "no VGG19" in refused(tmp_path / "file", write_bytes(data))


@pytest.mark.parametrize(
    "header",
    ["{", "[]", '{"format": 1}', '{"format": 1, "mean": [1, 2], "deviation": [1, 1, 1]}'],
)
def test_a_damaged_header(header, tmp_path):
    arrays = {"conv1_1/kernel": np.ones((3, 3, 3, 64), np.float32)}
    write = functools.partial(safetensors.numpy.save_file, arrays, metadata={vgg19.HEADER: header})
    assert "metadata is damaged" in refused(tmp_path / "file", write)


def test_a_header_of_a_later_format(tmp_path):
    arrays = {"conv1_1/kernel": np.ones((3, 3, 3, 64), np.float32)}
    metadata = {vgg19.HEADER: json.dumps({"format": 2})}
    write = functools.partial(safetensors.numpy.save_file, arrays, metadata=metadata)
    assert "update srgan_jax" in refused(tmp_path / "file", write)


# Downloading


class Quiet(http.server.SimpleHTTPRequestHandler):
    requests: list[str]

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Keras' file on a local server in place of its own; the list of what was asked for."""
    pytest.importorskip("filelock")
    folder = tmp_path / "served"
    folder.mkdir()
    write_keras(folder / "vgg19.h5")
    handler = type("Handler", (Quiet,), {"requests": []})
    make = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/vgg19.h5"
        md5 = hashlib.md5((folder / "vgg19.h5").read_bytes()).hexdigest()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(vgg19, "_KERAS_URL", url)
        monkeypatch.setattr(vgg19, "_KERAS_MD5", md5)
        yield handler.requests
        server.shutdown()


def test_what_is_downloaded_is_kept_while_it_is_whole(served, tmp_path):
    network, params = vgg19.load("keras", LAYERS)
    assert network == vgg.VGG19(LAYERS, vgg.CAFFE)
    kernel = RANDOM["conv1_1"][0].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["conv1_1"]["kernel"], kernel)
    assert served == ["/vgg19.h5"]

    vgg19.load("keras", LAYERS)
    assert served == ["/vgg19.h5"]
    (tmp_path / "cache" / "srgan_jax" / "vgg19.h5").write_bytes(b"damaged")
    vgg19.load("keras", LAYERS)
    assert served == ["/vgg19.h5"] * 2


def test_several_at_once_download_once(served):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(lambda _: vgg19.load("keras", LAYERS), range(6)))
    assert served == ["/vgg19.h5"]
    for network, params in loaded:
        assert network == loaded[0][0]
        kernel = loaded[0][1]["conv2_2"]["kernel"]
        np.testing.assert_array_equal(params["conv2_2"]["kernel"], kernel)


def test_without_network_the_line_says_what_to_do(served, tmp_path, monkeypatch):
    monkeypatch.setattr(vgg19, "_KERAS_URL", "http://127.0.0.1:9/vgg19.h5")  # nobody listens
    with pytest.raises(UserError) as caught:
        vgg19.load("keras", LAYERS)
    message = str(caught.value)
    for part in ("http://127.0.0.1:9/vgg19.h5", vgg19._KERAS_MD5, "cache/srgan_jax/vgg19.h5"):
        assert part in message
    assert "\n" not in message

    # Put there by hand, it is taken.
    folder = files.cache_folder()
    (folder / "vgg19.h5").write_bytes((tmp_path / "served" / "vgg19.h5").read_bytes())
    vgg19.load("keras", LAYERS)
    assert served == []


def test_an_empty_path():
    with pytest.raises(UserError, match=r"config\.vgg\.path is empty.*keras or timm.*:mse"):
        vgg19.load("", LAYERS)
