"""Which device does a name mean, and on how many threads is small work done?"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


class DeviceError(RuntimeError):
    """The device that was asked for is not there."""


def chosen_device(name: str) -> torch.device:
    """`"cpu"`, `"cuda"`, or `"auto"` (CUDA where there is one) as a device; DeviceError where CUDA
    is missing.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(
            "device cuda was asked for, but PyTorch sees no CUDA device; use cpu or auto"
        )
    if name.startswith("cuda"):
        # what a restart repeats bit for bit must not depend on which algorithm was fastest
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return torch.device(name)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's and NumPy's linear algebra on one thread inside, as before afterwards: with small
    matrices several spend their time waiting for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
