"""What several test files share: the real data sets, got once, and a bound on torch's threads."""

from pathlib import Path

import pytest
import torch

from degeneracy.data.files import ensure_data_files
from degeneracy.data.images import DataSplits, load_data

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The repository's `data/`, with MNIST and Fashion-MNIST in it."""
    root = Path(__file__).resolve().parent.parent / "data"
    ensure_data_files("mnist", root)
    ensure_data_files("fashion-mnist", root)
    return root


@pytest.fixture(scope="session")
def mnist(data_root: Path) -> DataSplits:
    return load_data("mnist", data_root)


@pytest.fixture(scope="session")
def fashion_mnist(data_root: Path) -> DataSplits:
    return load_data("fashion-mnist", data_root)
