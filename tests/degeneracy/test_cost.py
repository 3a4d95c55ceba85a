"""Are seconds and memory those of the work between two looks?"""

import time

import pytest
import torch

from degeneracy.cost import clock, forget_peak, memory_mb

SIZE_MB = 256


def taken(device: torch.device) -> torch.Tensor:
    return torch.ones(SIZE_MB * 2**18, device=device)


def test_seconds_are_those_of_the_wall():
    device = torch.device("cpu")
    before, started = time.perf_counter(), clock(device)
    time.sleep(0.05)
    spent = clock(device) - started
    assert 0.049 <= spent <= time.perf_counter() - before


def test_a_tensor_is_in_the_memory_that_is_taken():
    device = torch.device("cpu")
    before = memory_mb(device)
    kept = taken(device)
    assert memory_mb(device) - before > 0.9 * SIZE_MB
    assert kept[-1] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine")
def test_on_cuda_it_is_the_most_since_the_peak_was_forgotten():
    device = torch.device("cuda")
    taken(device)
    forget_peak(device)
    before = memory_mb(device)
    taken(device)  # and given back at once
    assert memory_mb(device) - before == pytest.approx(SIZE_MB, abs=2)
