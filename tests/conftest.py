"""What do all test files share? Threads, one of each data set, hypothesis without deadlines."""

import os
from pathlib import Path

# Before torch is imported, for pytest-xdist's workers and for the processes that tests start: one
# thread each, so that they do not take each other's cores. Another number may be given.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import hypothesis
import pytest
import torch
from filelock import FileLock

from degeneracy.data.files import ensure_data_files
from degeneracy.data.images import DataSplits, load_data

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# An example is as slow as the machine is busy.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def device() -> str:
    """On which the studies' own short runs are made: `TEST_DEVICE=cuda make test` has them on a
    GPU.
    """
    return os.environ.get("TEST_DEVICE", "cpu")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The repository's `data/`, with MNIST and Fashion-MNIST in it, got by one worker."""
    root = Path(__file__).resolve().parent.parent / "data"
    root.mkdir(exist_ok=True)
    with FileLock(root / ".lock"):
        ensure_data_files("mnist", root)
        ensure_data_files("fashion-mnist", root)
    return root


@pytest.fixture(scope="session")
def mnist(data_root: Path) -> DataSplits:
    return load_data("mnist", data_root)


@pytest.fixture(scope="session")
def fashion_mnist(data_root: Path) -> DataSplits:
    return load_data("fashion-mnist", data_root)
