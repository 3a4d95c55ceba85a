"""What has a piece of work cost, in seconds and memory, on a CPU or a GPU?"""

import time

import psutil
import torch


def clock(device: torch.device) -> float:
    """Seconds of `time.perf_counter`, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Lets `memory_mb` begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_mb(device: torch.device) -> float:
    """MiB: of a GPU the most that tensors had since `forget_peak`, else what the process has of the
    machine's memory now.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return psutil.Process().memory_info().rss / 2**20
