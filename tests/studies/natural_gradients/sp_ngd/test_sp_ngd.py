"""Does the section on SP-NGD keep what it measures, count owners rightly, and say what it found?"""

import json
import os
import subprocess
import sys

import pytest
import torch
from section_alone import alone

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.data.images import TensorData
from degeneracy.optimizers.distributed import numbers_sent
from degeneracy.optimizers.spngd import SPNGD
from degeneracy.study import run_study
from studies.natural_gradients.sp_ngd import SECTION
from studies.natural_gradients.sp_ngd.balance import balance, largest_load, resnet50_blocks
from studies.natural_gradients.sp_ngd.figures import figures
from studies.natural_gradients.sp_ngd.findings import card, tables
from studies.natural_gradients.sp_ngd.runs import batches, flat_images, network, run_refreshes
from studies.natural_gradients.sp_ngd.settings import Settings

STUDY, _ = alone("sp_ngd", SECTION, Settings())
TINY = {
    "hidden_nodes": 16,
    "hidden_layers": 1,
    "target_loss": 0.6,
    "batch_size": 250,
    "seeds": [3],
    "max_steps": 60,
    "batch_sizes": [250, 1000],
    "alphas": [0.0, 0.4],
    "num_samples": 6000,
    "pool": 4,
    "max_ranks": 8,
}


@pytest.fixture(scope="module")
def report(data_root, tmp_path_factory, device):
    """The page of a small run, and the part that it shows."""
    out = tmp_path_factory.mktemp("sp_ngd") / "run"
    path = run_study(STUDY, parse_config({"sp_ngd": TINY}, STUDY.settings), out, device)
    return path.read_text(), json.loads((out / "results.json").read_text())["parts"]["sp_ngd"]


def test_every_run_is_kept_under_its_key(report):
    assert set(report[1]) == {
        "to loss, sgd, seed 3",
        "to loss, spngd, seed 3",
        *(f"refreshes, batch {b}, alpha {a}" for b in (250, 1000) for a in ("0", "0.4")),
        "balance",
    }


def test_the_page_shows_each_figure_and_what_was_found(report):
    page, part = report
    page = page.replace("\u00a0", " ")
    for key in ("loss", "refreshed", "sent", "balance"):
        assert f'id="figure-sp-ngd-{key}"' in page
    assert card(part).headline in page
    assert "SP-NGD reaches a loss of 0.6 in" in page


def test_fresh_runs_refresh_all_and_stale_ones_fewer(report):
    part = report[1]
    for size, steps in ((250, 24), (1000, 6)):
        fresh, stale = (part[f"refreshes, batch {size}, alpha {a}"] for a in ("0", "0.4"))
        assert fresh["steps"] == stale["steps"] == steps
        assert fresh["share"] == 1.0
        assert stale["share"] < 1.0
        assert fresh["sent"]["stale"] == fresh["sent"]["packed"] < fresh["sent"]["whole"]
        assert stale["sent"]["stale"] < stale["sent"]["packed"]


def test_a_part_that_is_partly_there_is_shown(report):
    part = report[1]
    for key, found in part.items():
        some = {key: found}
        headline = card(some).headline
        absent = "SGD" if "spngd" in key else "SP-NGD"
        only = f"To a loss of 0.6 {absent} has not been run yet."
        assert (headline == only) == key.startswith("to loss")
        assert "reach" not in headline
        assert ("of the statistics were refreshed" in headline) == ("alpha 0.4" in key)
        assert ("Fresh statistics alone" in headline) == key.endswith("alpha 0")
        assert (headline == "Only the owners of layers were counted.") == (key == "balance")
        tables(some)
        for drawing in figures(some):
            axes = [*drawing.figure.select_xaxes(), *drawing.figure.select_yaxes()]
            assert all(axis.title.text for axis in axes)
    assert card({}).headline == "Nothing has been measured yet."
    assert figures({}) == []
    assert tables({}) == []


def test_a_run_that_did_not_arrive_and_one_that_diverged_are_said(report):
    part = json.loads(json.dumps(report[1]))
    part["to loss, sgd, seed 3"]["reached"] = False
    part["to loss, sgd, seed 3"]["losses"][-1] = None
    assert "A loss of 0.6 was not reached by SGD (1 run did not arrive)." in card(part).headline
    part["refreshes, batch 250, alpha 0.4"]["loss"] = None
    assert "over 2 runs" in " ".join(card(part).text)
    assert figures(part)
    assert "–" in {cell for row in tables(part)[0].rows for cell, _ in row}


def test_a_whole_epoch_of_batches_holds_each_sample_once():
    data = TensorData(torch.arange(10.0)[:, None, None, None], torch.arange(10))
    stream = batches(flat_images(data), 5, 0)
    one, other = next(stream), next(stream)
    assert sorted([*one[1].tolist(), *other[1].tolist()]) == list(range(10))
    assert torch.equal(one[0][:, 0].long(), one[1])


def test_refreshes_are_the_optimizers(mnist):
    data = flat_images(mnist.train.first(1200), 7)
    optimizer = SPNGD(network(16, 8, 1, 0), 0.01, interval=4)
    found = run_refreshes(optimizer, data, data, 100, 1200, 2, 0)
    assert found["share"] == 0.25
    assert found["shares"] == {"A": 0.25, "G": 0.25}
    every = list(optimizer.schedules)
    fresh, stale = (numbers_sent(optimizer.blocks, due, 2).total for due in (every, []))
    assert found["sent"]["stale"] == pytest.approx((fresh + 3 * stale) / 4, rel=1e-12)


def resnet50_by_hand():
    """(fan in, fan out) of ResNet-50's 54 matrices: He et al., arXiv:1512.03385, table 1."""
    layers, width = [(3 * 49, 64)], 64
    for inner, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for place in range(count):
            layers += [(width, inner), (9 * inner, inner), (inner, 4 * inner)]
            layers += [(width, 4 * inner)] if place == 0 else []
            width = 4 * inner
    return [*layers, (width + 1, 1000)]


def test_resnet50s_layers_are_those_of_the_paper():
    blocks = resnet50_blocks()
    matrices = [(b.shapes["A"][0], b.shapes["G"][0]) for b in blocks.values() if "A" in b.shapes]
    norms = [b.shapes["F"][0] for b in blocks.values() if "F" in b.shapes]
    by_hand = resnet50_by_hand()
    assert sorted(matrices) == sorted(by_hand)
    assert sorted(norms) == sorted(out for _, out in by_hand[:-1])
    costs = [a**3 + g**3 for a, g in by_hand]
    most = (sum(costs) + sum(8 * c for c in norms)) / max(costs)
    found = balance(blocks, 64)
    assert found.greedy == found.most == pytest.approx(most, rel=1e-12)


def test_a_balance_is_that_of_its_loads():
    assert largest_load([5.0, 1.0, 2.0, 4.0], [0, 1, 1, 0]) == 9.0
    blocks = resnet50_blocks()
    assert balance(blocks, 1) == (1.0, 1.0, 1)
    for ranks in (2, 4, 8):
        found = balance(blocks, ranks)
        assert 1 <= found.in_turn <= found.most * (1 + 1e-12)
        assert 0.75 * found.most <= found.greedy <= found.most * (1 + 1e-12)


def test_more_samples_than_two_batches_are_asked_for():
    with pytest.raises(ConfigError, match=r"100 given with a batch of 80; allowed there: ≥ 160"):
        parse_config({"sp_ngd": {"num_samples": 100, "batch_sizes": [80]}}, STUDY.settings)


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(data_root):
    """The example's two lines: fresh statistics, and stale ones that send less."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "studies.natural_gradients.sp_ngd.distributed_run"]
    command += ["--steps", "6", "--batch-size", "200", "--width", "16"]
    done = subprocess.run(
        command,
        cwd=data_root.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    fresh, stale = done.stdout.strip().splitlines()
    assert fresh.startswith("α = 0, 2 ranks, 6 steps: loss ")
    assert "100 % of the statistics refreshed" in fresh
    assert stale.startswith("α = 0.4, 2 ranks, 6 steps: loss ")


def test_without_torchrun_the_example_says_so(monkeypatch, capsys):
    from studies.natural_gradients.sp_ngd.distributed_run import main

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit, match="started by torchrun"):
        main([])
