"""Do several processes take the step of one, with what they say they send, and how do they end?"""

import os
import socket
import subprocess
import sys
import time

import pytest
import spngd_ranks
import torch
from spngd_ranks import CASES, TIMEOUT_S, network, steps
from torch import nn

from degeneracy.optimizers.distributed import (
    greedy_owners,
    numbers_sent,
    packed,
    process_group,
    triangle_size,
    unpacked,
)
from degeneracy.optimizers.kfac import blocks_of


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two processes found, how they ended, what the first said, and how long it took."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, spngd_ranks.__file__, str(out)]
    started = time.monotonic()
    processes = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    found = [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    codes = [process.returncode for process in processes]
    return found, codes, said, time.monotonic() - started


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(ranks, case):
    alone = steps(CASES[case], 0, 1)
    for found in (one[case] for one in ranks[0]):
        gap = (found["weights"] - alone["weights"]).norm() / alone["weights"].norm()
        assert gap.item() <= 1e-12
        assert found["refreshed"] == alone["refreshed"]
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-12, nan_ok=True)
        assert found["skipped"] == alone["skipped"] == 8
    stale = [len(refreshed) < 7 for refreshed in alone["refreshed"]]
    assert any(stale)
    assert not all(stale)


@pytest.mark.parametrize("case", CASES)
def test_what_is_sent_is_what_is_said(ranks, case):
    """Counted as it goes out, against the shapes of what was refreshed."""
    blocks = blocks_of(network(0))
    for found in (one[case] for one in ranks[0]):
        for step, (refreshed, sent) in enumerate(
            zip(found["refreshed"], found["sent"], strict=True)
        ):
            if step != 5:  # which was left out
                assert sent == numbers_sent(blocks, refreshed, 2, sampled=case == "sampled")


def test_both_ranks_own_layers(ranks):
    owners = ranks[0][0]["rule"]["owners"]
    assert owners == ranks[0][1]["rule"]["owners"]
    assert set(owners.values()) == {0, 1}


def test_more_ranks_than_layers_are_refused(ranks):
    assert ranks[0][0]["refusal"].startswith("2 ranks given for 1 layers; allowed: 1 to 1")


def test_where_a_rank_dies_the_other_ends_with_a_sentence(ranks):
    _, codes, said, seconds = ranks
    assert codes == [1, 3]
    assert "rank 0 of 2: another rank ended or did not answer in time" in said[0]
    assert "start all again from the last checkpoint" in said[0]
    assert seconds < 120 - TIMEOUT_S


def test_a_process_that_torchrun_did_not_start_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=r"no RANK.*torchrun"), process_group():
        pass


@pytest.mark.parametrize(
    ("environment", "num_gpus", "place"),
    [
        ({"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 0, "cpu"),
        ({"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 1, "cpu"),
        ({"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 2, "cuda:1"),
        ({}, 3, "cpu"),  # all four ranks are taken to be on this machine
        ({}, 4, "cuda:3"),
    ],
)
def test_ranks_are_on_gpus_where_each_has_its_own(monkeypatch, environment, num_gpus, place):
    """Of four ranks this is the last; what would start the group and take the GPU is noted."""
    for key in ("LOCAL_WORLD_SIZE", "LOCAL_RANK", "TORCH_NCCL_BLOCKING_WAIT"):
        monkeypatch.setenv(key, "")  # so that the variable is put back afterwards
        monkeypatch.delenv(key)
    shared = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}
    for key, value in (shared | environment).items():
        monkeypatch.setenv(key, value)
    backends, taken = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.append(str(device)))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, timeout: backends.append(backend)
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with process_group() as device:
        assert str(device) == place
    on_gpu = place != "cpu"
    assert backends == (["nccl"] if on_gpu else ["gloo"])
    assert taken == ([place] if on_gpu else [])


# ---- triangles, and owners -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (4, 2, 2)])
def test_a_triangle_holds_a_symmetric_matrix(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix = matrix + matrix.mT
    triangle = packed(matrix)
    assert len(triangle) == triangle_size(shape)
    assert torch.equal(unpacked(triangle, shape), matrix)


def test_what_a_step_sends_packed_whole_and_stale():
    blocks = blocks_of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    everything = [(name, s) for name, block in blocks.items() for s in block.shapes]
    weights = 3 * 2 + 2 + 2 * 2
    fresh = numbers_sent(blocks, everything, 3)
    assert (fresh.gradients, fresh.directions) == (2 * weights, 2 * weights)
    assert fresh.statistics == 2 * (4 * 5 // 2 + 3 + 2 * 3)
    assert numbers_sent(blocks, everything, 3, triangles=False).statistics == 2 * (16 + 4 + 8)
    assert numbers_sent(blocks, [("0", "G")], 3).statistics == 2 * 3
    assert numbers_sent(blocks, everything, 1).total == 0
    for due, more in ((everything, 2 * 3), ([("0", "G")], 2 * 3), ([("0", "A")], 0), ([], 0)):
        given, drawn = (numbers_sent(blocks, due, 3, sampled=sampled) for sampled in (False, True))
        assert drawn.others - given.others == more


def best_load(costs, num_ranks):
    """By trying every assignment."""
    loads = [[0] * num_ranks]
    for cost in costs:
        loads = [
            [load + cost * (i == rank) for i, load in enumerate(one)]
            for one in loads
            for rank in range(num_ranks)
        ]
    return min(map(max, loads))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_greedy_owners_are_within_grahams_bound_of_the_best(num_ranks):
    costs = torch.randint(1, 50, (8,), generator=torch.Generator().manual_seed(1)).tolist()
    owners = greedy_owners(costs, num_ranks)
    loads = [sum(c for c, o in zip(costs, owners, strict=True) if o == r) for r in range(num_ranks)]
    assert max(loads) <= (4 / 3 - 1 / (3 * num_ranks)) * best_load(costs, num_ranks)
    assert min(loads) > 0


@pytest.mark.parametrize("num_ranks", [0, 4])
def test_owners_of_no_rank_or_too_many_are_refused(num_ranks):
    with pytest.raises(ValueError, match=f"{num_ranks} ranks given for 3 layers; allowed: 1 to 3"):
        greedy_owners([1.0, 2.0, 3.0], num_ranks)
