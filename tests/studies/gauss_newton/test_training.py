"""Is every step seen, and does training go on from any epoch to the same numbers?"""

import csv
import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from degeneracy.config.reader import parse_config
from degeneracy.data.images import TensorData
from studies.gauss_newton.logs import Log
from studies.gauss_newton.settings import Settings
from studies.gauss_newton.training import (
    Trainer,
    Trajectory,
    load_weights,
    network,
    random_resized_crops,
    trajectories,
)

OF_THE_MACHINE = ("time_s", "memory_mb")


@pytest.fixture
def start(tiny_config, mnist):
    """A function that makes a trainer of the tiny config, with some of it changed."""

    def trainer(regime, name, **changes):
        settings = parse_config(tiny_config | changes, Settings)
        count = 16 if regime == "full" else settings.data.num_train
        few = TensorData(*(part[:count] for part in mnist.train))
        test = TensorData(*(part[:200] for part in mnist.test))
        return Trainer(settings, Trajectory(regime, name, 42), few, test)

    return trainer


def without_machine(rows):
    return [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in rows]


def test_trajectories_are_seeds_regimes_optimizers_and_swaps(tiny_settings):
    found = [trajectory.key for trajectory in trajectories(tiny_settings)]
    names = ["block", "min_norm", "adam", "ngd"]
    assert found == [
        *(f"full/{name}/42" for name in names),
        *(f"mini/{name}/42" for name in [*names, "adam>block at 1"]),
    ]


@pytest.mark.parametrize("name", ["block", "min_norm", "adam", "ngd"])
def test_a_row_has_what_is_to_be_logged(start, name):
    trainer = start("mini", name)
    rows, record = trainer.run_epoch()
    assert [(row["epoch"], row["iteration"]) for row in rows] == [(1, 1), (1, 2), (1, 3)]
    row = rows[-1]
    change = 100 * (row["loss_after"] - row["loss"]) / row["loss"]
    assert row["loss_change_percent"] == pytest.approx(change)
    assert row["val_loss"] == record["val_loss"]
    assert rows[0]["val_loss"] is None
    assert all(row[key] > 0 for key in OF_THE_MACHINE)
    for key, weight in trainer.model.named_parameters():
        assert row[f"norm.{key}"] == pytest.approx(weight.norm().item())
        assert row[f"variance.{key}"] == pytest.approx(weight.var().item())
    if name in ("block", "min_norm"):
        assert 0 <= row["missed_fraction"] < 1
        assert set(record["min_rank"]) == {f"blocks.{i}.{half}" for i in range(2) for half in "fg"}


def test_the_least_rank_is_that_of_whole_batches(start):
    trainer = start("mini", "min_norm", training={"mini": {"batch_size": 18, "epochs": 2}})
    rows, record = trainer.run_epoch()
    assert [row["images"] for row in rows] == [18] * 5 + [6]
    assert rows[-1]["rank.blocks.1.g"] == 6
    assert record["min_rank"]["blocks.1.g"] == min(row["rank.blocks.1.g"] for row in rows[:-1]) > 6


def test_loss_and_accuracy_are_those_before_the_step(start):
    trainer = start("full", "block")
    with torch.no_grad():
        logits = trainer.model(trainer.train.inputs)
    right = torch.nn.functional.cross_entropy(logits, trainer.train.labels).item()
    (row,), _ = trainer.run_epoch()
    assert row["loss"] == pytest.approx(right)
    accuracy = (logits.argmax(1) == trainer.train.labels).double().mean().item()
    assert row["accuracy"] == accuracy


@pytest.mark.parametrize("name", ["block", "min_norm", "adam", "ngd", "adam>block at 1"])
@pytest.mark.parametrize("after", [1, 2])
def test_training_goes_on_from_any_epoch_to_the_same_numbers(start, name, after):
    changes = {"training": {"mini": {"batch_size": 32, "epochs": 3}, "full": {"batch_size": 16}}}
    whole, again = start("mini", name, **changes), start("mini", name, **changes)
    for _ in range(after):
        whole.run_epoch()
    # copies, as a file holds them: the optimizer that goes on changes its own
    again.unpack({name: tensor.clone() for name, tensor in whole.packed().items()}, after)
    for _ in range(after, 3):
        (rows, record), (same_rows, same_record) = whole.run_epoch(), again.run_epoch()
        assert without_machine(rows) == without_machine(same_rows)
        assert without_machine([record]) == without_machine([same_record])
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_swap_is_its_first_optimizer_up_to_its_epoch(start):
    swap, alone = start("mini", "adam>block at 1"), start("mini", "adam")
    rows, same = (trainer.run_epoch()[0] for trainer in (swap, alone))
    assert without_machine(rows) == without_machine(same)
    rows, _ = swap.run_epoch()
    assert "missed_fraction" in rows[0]
    assert "missed_fraction" not in alone.run_epoch()[0][0]


def test_every_optimizer_meets_the_same_crops_in_the_same_order(start):
    changes = {"data": {"root": "data", "num_train": 96, "augment": True}}
    seen = []
    for name in ("block", "adam"):
        trainer = start("mini", name, **changes)
        seen.append([trainer._images(chosen)[0] for chosen in trainer._batches()])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_network_that_diverges_ends_its_run_and_keeps_what_was_found(start):
    wild = {"wild": {"kind": "gauss_newton", "lr": 1e25}}
    trainer = start("mini", "wild", optimizers=wild, swaps=[], degeneracy={})
    rows, record = trainer.run_epoch()
    assert trainer.diverged["epoch"] == 1
    assert "not finite" in trainer.diverged["reason"]
    assert math.isfinite(rows[0]["loss"])
    assert "val_loss" not in record


def test_inverting_what_is_not_finite_ends_a_first_order_run_too(start):
    wild = {"wild": {"kind": "sgd", "lr": 1e25}}
    trainer = start("full", "wild", optimizers=wild, swaps=[], degeneracy={})
    while trainer.diverged is None and trainer.epoch < 4:
        trainer.run_epoch()
    assert "not finite" in trainer.diverged["reason"]


def test_weights_of_another_architecture_are_refused(start, tiny_config):
    trainer = start("mini", "block")
    other = parse_config(tiny_config | {"network": {"hidden": 21}}, Settings)
    with pytest.raises(ValueError, match="a checkpoint of RevMLP 784, hidden 20, 2 blocks"):
        load_weights(network(other, 42), trainer.packed())


# ---- crops ---------------------------------------------------------------------------------------


def crops(images, seed=0):
    return random_resized_crops(images, torch.Generator().manual_seed(seed))


def test_crops_before_and_after_normalisation_are_the_same():
    images = torch.rand(20, 3, 28, 28).double()
    torch.testing.assert_close(crops(2 * images - 1), 2 * crops(images) - 1)


def test_a_crop_is_a_part_of_its_image_made_as_large_as_the_whole():
    """Of a ramp from 0 to 1 a crop is a ramp, as steep as it is wide: 8 to 100 % of the area, with
    sides of 3 : 4 to 4 : 3, but for what is wider than the image.
    """
    n, side = 500, 64
    ramp = (torch.arange(side).double() + 0.5) / side
    across = crops(ramp.expand(n, 1, side, side))
    down = crops(ramp[:, None].expand(n, 1, side, side))
    inner = slice(side // 4, 3 * side // 4)  # the ramp itself ends half a pixel inside the image
    width = (across[:, 0, 0, inner].diff(dim=1) * side).mean(dim=1)
    height = (down[:, 0, inner, 0].diff(dim=1) * side).mean(dim=1)
    free = (width < 0.99) & (height < 0.99)
    area, ratio = (width * height)[free], (width / height)[free]
    assert free.sum() > n / 2
    assert 0.079 < area.min() < 0.12
    assert area.max() > 0.8
    assert 0.74 < ratio.min() < ratio.max() < 1.34
    assert across.min() >= 0
    assert across.max() <= 1


# ---- logs ----------------------------------------------------------------------------------------


def test_a_log_is_csv_json_and_tensorboard(tmp_path):
    rows = [
        {"epoch": 1, "iteration": 1, "loss": 2.5, "val_loss": None, "norm.blocks.0.f.bias": 0.0},
        {"epoch": 1, "iteration": 2, "loss": 1.5, "val_loss": 2.0, "norm.blocks.0.f.bias": 1.0},
    ]
    for seen in (0, 1):  # the second goes on with what the first saw
        log = Log(tmp_path, "mini/adam>block at 1/42", rows[:seen])
        log.add(rows[seen:])
        log.close()
    path = tmp_path / "logs" / "mini-adam-block-at-1-42"
    with open(f"{path}.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["loss"] for row in table] == ["2.5", "1.5"]
    assert [row["val_loss"] for row in table] == ["", "2.0"]
    with open(f"{path}.json", encoding="utf-8") as file:
        assert json.load(file) == rows
    board = EventAccumulator(str(tmp_path / "logs" / "tensorboard" / path.name))
    board.Reload()
    assert [(s.step, s.value) for s in board.Scalars("loss")] == [(1, 2.5), (2, 1.5)]
    assert [s.step for s in board.Scalars("val_loss")] == [2]
    assert [s.value for s in board.Scalars("norm/blocks.0.f.bias")] == [0.0, 1.0]


def test_a_log_of_a_divergence_is_json(tmp_path):
    log = Log(tmp_path, "mini/sgd/42", [{"epoch": 1, "iteration": 1, "loss": float("nan")}])
    log.close()
    text = (tmp_path / "logs" / "mini-sgd-42.json").read_text()
    assert "NaN" not in text
    assert json.loads(text) == [{"epoch": 1, "iteration": 1, "loss": None}]
