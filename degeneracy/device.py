"""Which device does a name mean?"""

import torch


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
