"""A run that cannot fit is refused with what it takes, before anything large is made."""

import resource
from itertools import pairwise
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from degeneracy.config.reader import ConfigError, parse_config
from degeneracy.models.networks import FFNN, LeNet5
from degeneracy.optimizers.kinds import KINDS
from degeneracy.runs.config import Config
from degeneracy.runs.memory import (
    Asked,
    control_group_rooms,
    free_bytes,
    refuse_more_than_memory,
    sampling_phase,
    state_numbers,
)
from degeneracy.runs.run import model_factories

CPU = torch.device("cpu")
SGLD = {"devinterp": {"sampler": "sgld"}}


def asked(given: dict) -> Asked:
    config = parse_config(given, Config)
    models = model_factories(config, (1, 28, 28), 10)
    return Asked(config, models, config.optimizer_names, CPU)


def test_a_network_that_no_machine_holds_is_refused_and_nothing_is_made():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as caught:
        refuse_more_than_memory(
            asked({"experiment": {"hidden_nodes": [65_536], "hidden_layers": [100]}})
        )
    sentence = caught.value.problems[0]
    weights = sum(a * b + b for a, b in pairwise([784, *[65_536] * 100, 10]))
    assert sentence.startswith("experiment.hidden_nodes: [65536] with experiment.hidden_layers")
    assert f"{weights:,} weights" in sentence
    assert f"weights {4 * weights / 1e12:.1f} TB" in sentence
    assert "are free; allowed here: fewer hidden nodes or layers" in sentence
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 2**20


def test_many_checkpoints_of_a_network_that_fits_are_refused_by_their_own_key():
    nodes = {"hidden_nodes": [1024], "hidden_layers": [2], "experiment_type": "standard"}
    many = {**nodes, "num_epochs": 100_000}
    with pytest.raises(ConfigError) as caught:
        refuse_more_than_memory(asked({"experiment": many} | SGLD))
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "experiment.measure_epochs"
    ]
    refuse_more_than_memory(asked({"experiment": {**many, "measure_epochs": "final"}}))


def test_sampled_losses_count_too():
    long = {"sampler": "sgld", "num_chains": 100_000, "num_draws": 10_000_000}
    with pytest.raises(ConfigError, match=r"devinterp.num_draws: 10000000 given"):
        refuse_more_than_memory(asked({"devinterp": long}))


def test_what_fits_is_not_refused_and_a_config_is_read_whatever_the_machine():
    refuse_more_than_memory(asked({}))
    large = {"hidden_nodes": [65_536], "hidden_layers": [100]}
    assert parse_config({"experiment": large}, Config).experiment.hidden_nodes == [65_536]


def test_models_from_python_are_counted_as_they_are():
    class Large(nn.Linear):
        def parameters(self, recurse=True):  # as many as no machine holds, in no memory
            return iter([nn.Parameter(torch.empty(2**42, device="meta"))])

    config = parse_config({}, Config)
    own = Asked(config, {"mine": lambda: Large(1, 1)}, ["own"], CPU, True, True)
    with pytest.raises(ConfigError, match=r"models: models of your own given; training mine"):
        refuse_more_than_memory(own)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("make", [lambda: FFNN(9, 2), lambda: LeNet5(1)])
def test_an_optimizers_state_is_counted_to_a_few_numbers_a_tensor(kind, momentum, make):
    torch.manual_seed(0)
    model, side = make(), 28
    if kind == "exact_ngd":  # which takes no larger ones
        model, side = FFNN(9, 2, (1, 5, 5)), 5
    given = {"momentum": momentum, "nesterov": momentum > 0}
    settings = KINDS[kind].settings(
        **{key: given[key] for key in given if key in KINDS[kind].settings.model_fields}
    )
    stepper = KINDS[kind].build(model, cross_entropy, settings)
    for _ in range(2):  # then there is a statistic before the latest one
        stepper.step(torch.rand(4, 1, side, side), torch.arange(4))
    shapes = [parameter.shape for parameter in model.parameters()]
    there = sum(torch.as_tensor(value).numel() for value in stepper.state_dict().values())
    assert 0 <= there - state_numbers(kind, settings, shapes) <= 5 * len(shapes)


def test_checkpoints_on_cuda_are_counted_a_block_at_a_time_in_the_hosts_memory():
    settings = parse_config(SGLD, Config).devinterp
    phase = sampling_phase("", "key", 1000, 100, settings, num_cores=8, is_cuda=True)
    sizes = {part.name: (part.size, part.on_device) for part in phase.parts}
    assert sizes["checkpoints"] == (32_000, False)
    assert sizes["where chains start"] == (32_000, True)
    assert sizes["chains"] == (5_000, True)
    phase = sampling_phase("", "key", 1000, 100, settings, num_cores=8, is_cuda=False)
    assert {part.name: part.size for part in phase.parts}["chains"] == 8 * 5_000


# ---- what there is -------------------------------------------------------------------------------


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    lines = tmp_path / "proc" / "self" / "cgroup"
    return SimpleNamespace(root=tmp_path, lines=lines, groups=tmp_path / "sys" / "fs" / "cgroup")


def test_the_limits_of_a_group_and_of_those_above_it_count(machine):
    machine.lines.write_text("0::/outer/inner\n")
    group(machine.groups / "outer", max=1000, current=300, stat="anon 1\ninactive_file 100")
    group(machine.groups / "outer" / "inner", max="max", current=10, stat="inactive_file 0")
    assert control_group_rooms(machine.root) == [800]  # what is cached can be given back
    group(machine.groups / "outer" / "inner", max=500, current=600, stat="inactive_file 0")
    assert sorted(control_group_rooms(machine.root)) == [0, 800]


def test_in_a_container_the_limit_stands_at_the_top(machine):
    machine.lines.write_text("0::/as/the/host/calls/it\n")
    group(machine.groups, max=1000, current=200, stat="inactive_file 0")
    assert control_group_rooms(machine.root) == [800]


def test_limits_of_the_first_version_count(machine):
    machine.lines.write_text("3:cpu,cpuacct:/a\n5:memory:/a\n")
    files = {"limit_in_bytes": 1000, "usage_in_bytes": 400, "stat": "total_inactive_file 50"}
    group(machine.groups / "memory" / "a", **files)
    assert control_group_rooms(machine.root) == [650]


def test_without_control_groups_it_is_what_the_machine_has(machine):
    assert control_group_rooms(machine.root) == []
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total
