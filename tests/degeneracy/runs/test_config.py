"""A config is accepted in both forms, or refused with every problem named: its key, what was given,
what is allowed.
"""

import json
import pickle
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from degeneracy.config.reader import ConfigError
from degeneracy.config.reader import parse_config as parse
from degeneracy.config.schema import json_schema
from degeneracy.config.words import key_below
from degeneracy.llc.settings import PARTS, SamplerSettings
from degeneracy.optimizers.kinds import KINDS
from degeneracy.runs.config import Config, ExperimentSettings, check_optimizer_names, load_config

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMA = jsonschema.Draft202012Validator(json_schema(Config, "ngd_sgd"))

DEFAULTS = {
    "experiment": {
        "model_type": "ffnn",
        "experiment_type": "swap",
        "optimizer": "both",
        "hessian": True,
        "robustness": True,
        "hidden_nodes": [256],
        "hidden_layers": [2],
        "hidden_conv_layers": [2],
        "cut_off_epochs": 10,
        "num_epochs": 20,
        "sgd_lr": 0.01,
        "sgd_swap_lr": None,
        "ngd_lr": 0.01,
        "alpha": 0.1,
        "eta": 0.9,
        "epsilon": 1e-10,
        "delta": 5e-4,
        "ngd_arithmetic": "stable",
        "momentum": 0.9,
        "nesterov": True,
        "seed": 1,
        "measure_epochs": "all",
    },
    "data": {
        "dataset": "fashion-mnist",
        "batch_size": 128,
        "num_workers": 0,
        "num_hessian_batches": 10,
        "num_probes": 50,
        "root": "data",
    },
    "devinterp": {
        "sampler": "auto",
        "num_chains": 8,
        "num_draws": None,
        "num_burnin_steps": None,
        "localization": 100,
        "sampler_lr": None,
        "thinning": 1,
        "micro_batch_size": None,
        "diffusion_factor": 0.01,
        "nbeta": "batch",
        "backend": "batched",
        "seed": 0,
        "sampler_batch_size": None,
        "dynamics": "kinetic",
        "cooled": True,
        "starts": "spread",
        "preconditioner": "auto",
        "control_variates": "auto",
        "paired_losses": True,
        "gauge": "given",
    },
    "optimizers": {},
}
LISTED_SECTIONS = ("experiment", "data", "devinterp")


def parse_config(content: object, where: str = "config") -> Config:
    return parse(content, Config, where)


def published_form(content: dict) -> list[dict]:
    return [content[name] for name in LISTED_SECTIONS]


def problems_of(content: object) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(content)
    return error.value.problems


# ---- accepted ------------------------------------------------------------------------------------


def test_defaults():
    assert parse_config({}).model_dump() == DEFAULTS


def test_primary_config_spells_out_the_defaults_but_for_a_quicker_sampler():
    """Half the chains, minibatches half as large, no cooling, for 31 checkpoints."""
    quicker = {"num_chains": 4, "sampler_batch_size": 256, "cooled": False}
    content = json.loads((REPOSITORY / "args_ngd_sgd.json").read_text(encoding="utf-8"))
    assert content.pop("$schema") == "./args_ngd_sgd.schema.json"
    assert content.keys() == DEFAULTS.keys()
    for section, defaults in DEFAULTS.items():
        expected = defaults | quicker if section == "devinterp" else defaults
        unsaid = expected.keys() - content[section].keys()
        assert unsaid <= PARTS.keys()  # of `auto`, for those who want to switch one off
        assert content[section] == {key: expected[key] for key in expected.keys() - unsaid}
    devinterp = Config().devinterp.model_copy(update=quicker)
    expected = Config().model_copy(update={"devinterp": devinterp})
    assert load_config(REPOSITORY / "args_ngd_sgd.json") == expected


@pytest.mark.parametrize(
    "content",
    [
        DEFAULTS,
        published_form(DEFAULTS),
        {},
        [{}, {}, {}],
        {"data": {}},
        {"$schema": "s", "study": "ngd_sgd"},
    ],
)
def test_both_forms_and_left_out_sections_mean_the_same(tmp_path, content):
    file = tmp_path / "args.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    assert load_config(file) == load_config(str(file)) == Config()


def test_byte_order_mark(tmp_path):
    file = tmp_path / "args.json"
    file.write_text('{"data": {"root": "données"}}', encoding="utf-8-sig")
    assert load_config(file).data.root == "données"


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("experiment", {"experiment_type": "standard", "optimizer": "ngd", "cut_off_epochs": 50}),
        ("experiment", {"experiment_type": "standard", "num_epochs": 1, "cut_off_epochs": 0}),
        ("experiment", {"cut_off_epochs": 1, "num_epochs": 2}),
        (
            "experiment",
            {"model_type": "dlnn", "hidden_nodes": [64, 64, 256], "hidden_layers": [1, 2, 2]},
        ),
        ("experiment", {"model_type": "cnn", "hidden_conv_layers": [0, 1, 2]}),
        ("experiment", {"momentum": 0, "nesterov": False}),
        ("experiment", {"alpha": 4, "eta": 1, "epsilon": 0, "delta": 0, "sgd_swap_lr": 1e-3}),
        (
            "experiment",
            {"seed": 2**32 - 1, "measure_epochs": "final", "ngd_arithmetic": "published"},
        ),
        ("data", {"dataset": "cifar10", "batch_size": 5_000, "num_hessian_batches": 10}),
        ("data", {"num_workers": 8, "root": "/srv/data sets"}),
        ("devinterp", {"nbeta": 2_000}),
        ("devinterp", {"nbeta": "dataset", "localization": 0, "num_draws": 4}),
        ("devinterp", {"sampler": "rmsprop_sgld", "backend": "devinterp"}),
        ("devinterp", {"sampler": "sgnht", "localization": 0, "diffusion_factor": 0.1}),
        ("devinterp", {"sampler": "auto", "num_draws": 200, "sampler_lr": None}),
        ("devinterp", {"sampler": "sgld", "num_burnin_steps": 0, "sampler_lr": 1e-5}),
        ("devinterp", {"dynamics": "euler", "preconditioner": "kfac", "sampler_batch_size": 64}),
        ("devinterp", {"sampler": "sgld", "gauge": "balanced"}),
    ],
)
def test_accepted(section, values):
    accepted = getattr(parse_config({section: values}), section)
    for key, value in values.items():
        assert getattr(accepted, key) == value
        assert type(getattr(accepted, key)) in (type(value), float)
    SCHEMA.validate({section: values})


def test_whole_training_set_as_one_batch_without_hessian():
    config = parse_config({"experiment": {"hessian": False}, "data": {"batch_size": 60_000}})
    assert config.data.batch_size == 60_000


def test_measured_epochs_are_sorted():
    assert parse_config(
        {"experiment": {"measure_epochs": [20, 0, 10]}}
    ).experiment.measure_epochs == [0, 10, 20]


def test_sgnht_without_localization_has_none():
    config = parse_config({"devinterp": {"sampler": "sgnht"}})
    assert config.devinterp.localization == 0
    assert SamplerSettings(sampler="sgnht").localization == 0
    assert parse_config(config.model_dump()) == config
    with pytest.raises(ValueError, match="localization"):
        SamplerSettings(sampler="sgnht", localization=100)


@pytest.mark.parametrize(
    ("sampler", "expected"), [("sgld", (2, 1_000, 0, 1e-4)), ("auto", (8, None, None, None))]
)
def test_a_sampler_has_lengths_and_step_of_its_own(sampler, expected):
    """Published, or null for what `auto` finds; they stay when written out and read again."""
    config = parse_config({"devinterp": {"sampler": sampler}})
    found = config.devinterp
    lengths = found.num_draws, found.num_burnin_steps
    assert (found.num_chains, *lengths, found.sampler_lr) == expected
    written = json.loads(config.model_dump_json())
    assert parse_config(written) == config
    SCHEMA.validate(written)


def test_settings_do_not_change():
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.experiment.alpha = 1.0


# ---- refused -------------------------------------------------------------------------------------

# section, key, the value given as JSON shows it, and what the message says is allowed
BAD_VALUES = [
    ("experiment", "model_type", '"resnet"', '"ffnn" or "dlnn" or "cnn"'),
    ("experiment", "model_type", '"FFNN"', '"ffnn" or "dlnn" or "cnn"'),
    ("experiment", "model_type", '" ffnn"', '"ffnn" or "dlnn" or "cnn"'),
    ("experiment", "experiment_type", "null", '"standard" or "swap"'),
    (
        "experiment",
        "optimizer",
        '"adamw"',
        '"ngd" or "sgd" or "both" or a list of names of at most',
    ),
    ("experiment", "optimizer", "[]", "not empty"),
    ("experiment", "optimizer", '["sgd", 1]', "entry 2 is 1; allowed: "),
    ("experiment", "optimizer", '["a/b", "sgd"]', 'entry 1 is "a/b"; allowed: '),
    ("experiment", "hessian", "1", "true or false"),
    ("experiment", "hessian", '"true"', "true or false"),
    ("experiment", "hidden_nodes", "256", "a list of integers >= 1 and <= 65536, not empty"),
    ("experiment", "hidden_nodes", "[]", "a list of integers >= 1 and <= 65536, not empty"),
    ("experiment", "hidden_nodes", "[0]", "entry 1 is 0; allowed: a list of integers >= 1"),
    ("experiment", "hidden_nodes", "[65537]", "<= 65536"),
    ("experiment", "hidden_layers", "[2.0]", "entry 1 is 2.0; allowed: a list of integers >= 1"),
    ("experiment", "hidden_layers", "[true]", "entry 1 is true; allowed: a list of integers >= 1"),
    ("experiment", "hidden_conv_layers", "[]", "a list of integers >= 0 and <= 1000, not empty"),
    (
        "experiment",
        "hidden_conv_layers",
        "[1, -1]",
        "entry 2 is -1; allowed: a list of integers >= 0",
    ),
    ("experiment", "hidden_conv_layers", "[1, 2, 1]", "each model once, but 1 is there twice"),
    ("experiment", "cut_off_epochs", '"10"', "an integer >= 0"),
    ("experiment", "cut_off_epochs", "-1", "an integer >= 0"),
    ("experiment", "num_epochs", "0", "an integer >= 1"),
    ("experiment", "num_epochs", "20.0", "an integer >= 1"),
    ("experiment", "num_epochs", "true", "an integer >= 1"),
    ("experiment", "num_epochs", "1000000", "<= 100000"),
    ("experiment", "sgd_lr", "0", "a finite number > 0"),
    ("experiment", "sgd_lr", "NaN", "a finite number > 0"),
    ("experiment", "sgd_lr", '"0.01"', "a finite number > 0"),
    ("experiment", "sgd_lr", "true", "a finite number > 0"),
    ("experiment", "sgd_swap_lr", "-0.01", "a finite number > 0 and <= 1e+30 or null"),
    ("experiment", "ngd_lr", "Infinity", "a finite number > 0"),
    ("experiment", "ngd_lr", "null", "a finite number > 0"),
    ("experiment", "alpha", "0", "a finite number > 0"),
    ("experiment", "alpha", "-Infinity", "a finite number > 0"),
    ("experiment", "eta", "0", "a finite number > 0 and <= 1"),
    ("experiment", "eta", "1.5", "a finite number > 0 and <= 1"),
    ("experiment", "epsilon", "-1e-10", "a finite number >= 0"),
    ("experiment", "epsilon", "1e+31", "a finite number >= 0 and <= 1e+30"),
    ("experiment", "delta", "1", "a finite number >= 0 and < 1"),
    ("experiment", "ngd_arithmetic", '"float64"', '"stable" or "published"'),
    ("experiment", "momentum", "1", "a finite number >= 0 and < 1"),
    ("experiment", "momentum", "[0.9]", "a finite number >= 0 and < 1"),
    ("experiment", "nesterov", "0", "true or false"),
    ("experiment", "seed", "-1", "an integer >= 0 and <= 4294967295"),
    ("experiment", "seed", "4294967296", "an integer >= 0 and <= 4294967295"),
    ("experiment", "measure_epochs", '"last"', '"all" or "final" or a list of integers >= 0'),
    (
        "experiment",
        "measure_epochs",
        "[]",
        '"all" or "final" or a list of integers >= 0 and <= 100000, not empty',
    ),
    ("experiment", "measure_epochs", "[0, -1]", "entry 2 is -1; allowed: "),
    ("experiment", "measure_epochs", "[0, 5, 5]", "each epoch once, but 5 is there twice"),
    (
        "experiment",
        "measure_epochs",
        "[0, 21]",
        "epochs from 0 to experiment.num_epochs, which is 20",
    ),
    ("data", "dataset", '"imagenet"', '"mnist" or "fashion-mnist" or "cifar10"'),
    ("data", "batch_size", "1", "an integer >= 2 and <= 60000"),
    ("data", "batch_size", "70000", "an integer >= 2 and <= 60000"),
    ("data", "num_workers", "-1", "an integer >= 0"),
    ("data", "num_hessian_batches", "0", "an integer >= 1"),
    (
        "data",
        "num_hessian_batches",
        "469",
        "at most 468, for fashion-mnist's training set has 60000 images",
    ),
    ("data", "num_probes", "1", "an integer >= 2"),
    ("data", "root", '""', "a string that is not empty"),
    ("data", "root", '" data"', "without spaces at its ends"),
    ("data", "root", r'"da\u0000ta"', "without control characters"),
    ("devinterp", "sampler", '"hmc"', '"auto" or "sgld" or "sgnht" or "rmsprop_sgld"'),
    ("devinterp", "num_chains", "0", "an integer >= 1"),
    ("devinterp", "num_draws", "3", "an integer >= 4"),
    ("devinterp", "num_burnin_steps", "-5", "an integer >= 0"),
    ("devinterp", "localization", "-1", "a finite number >= 0"),
    ("devinterp", "sampler_lr", "0.0", "a finite number > 0"),
    ("devinterp", "diffusion_factor", "{}", "a finite number > 0"),
    ("devinterp", "nbeta", "0", '"batch" or "dataset" or a finite number > 0'),
    ("devinterp", "nbeta", '"n/ln n"', '"batch" or "dataset" or a finite number > 0'),
    ("devinterp", "nbeta", "true", '"batch" or "dataset" or a finite number > 0'),
    ("devinterp", "backend", '"cuda"', '"batched" or "devinterp"'),
    ("devinterp", "sampler_batch_size", "0", "an integer >= 1"),
    ("devinterp", "dynamics", '"none"', '"kinetic" or "averaged" or "euler"'),
    ("devinterp", "starts", '"random"', '"spread" or "checkpoint"'),
    ("devinterp", "preconditioner", '"adam"', '"auto" or "kfac" or "diagonal" or "none"'),
    ("devinterp", "control_variates", "true", '"auto" or "on" or "off"'),
    ("devinterp", "paired_losses", "1", "true or false"),
    ("devinterp", "gauge", '"unit"', '"given" or "balanced"'),
    ("devinterp", "seed", "0.5", "an integer >= 0 and <= 4294967295"),
]


@pytest.mark.parametrize(("section", "key", "value", "allowed"), BAD_VALUES)
@pytest.mark.parametrize("as_list", [False, True])
def test_bad_value(tmp_path, section, key, value, allowed, as_list):
    """The one problem names the key, the value and what is allowed; nothing of pydantic's own
    wording.
    """
    sections = {
        name: f'{{"{key}": {value}}}' if name == section else "{}" for name in LISTED_SECTIONS
    }
    named = ", ".join(f'"{name}": {content}' for name, content in sections.items())
    file = tmp_path / "args.json"
    file.write_text(
        f"[{', '.join(sections.values())}]" if as_list else f"{{{named}}}", encoding="utf-8"
    )
    with pytest.raises(ConfigError) as error:
        load_config(file)
    (problem,) = error.value.problems
    assert problem.startswith(f"{section}.{key}: {value} given")
    assert allowed in problem.split(" given", 1)[1]
    assert str(error.value) == f"{file}: 1 problem\n  {problem}"
    assert "pydantic" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        # keys and sections that do not exist
        (
            {"experiment": {"alhpa": 0.1}},
            ["experiment.alhpa: unknown key, 0.1 given", "did you mean experiment.alpha?"],
        ),
        (
            {"experiment": {"dataset": "mnist"}},
            ["experiment.dataset", '"mnist"', "another section: data.dataset"],
        ),
        ({"data": {"seed": 3}}, ["data.seed", "3", "experiment.seed or devinterp.seed"]),
        ({"data": {"qqq": 3}}, ["data.qqq", "3", "allowed: dataset, batch_size, num_workers"]),
        ({"data": {"a b": 3}}, ['data."a b"', "3", "allowed: dataset, batch_size"]),
        (
            {"alpha": 0.1},
            ["alpha: unknown section, 0.1 given", "it is a key of section experiment"],
        ),
        ({"experimnt": {}}, ["experimnt: unknown section, {} given", "did you mean experiment?"]),
        ({"qqq": 1}, ["qqq: unknown section, 1 given", "allowed: experiment, data, devinterp"]),
        # the outer shape
        ({"data": [128]}, ["data: [128] given", "allowed: an object"]),
        ({"data": None}, ["data: null given", "allowed: an object"]),
        ({"$schema": 1}, ["$schema: 1 given", "allowed: a string"]),
        (
            [{}, {}],
            ["a list of 2 given", "three objects, in the order experiment, data, devinterp"],
        ),
        (
            [{}, {}, {}, {}],
            ["a list of 4 given", "three objects, in the order experiment, data, devinterp"],
        ),
        (
            [{}, {"num_draws": 9}, {}],
            ["data.num_draws", "9 given", "another section: devinterp.num_draws"],
        ),
        ("swap", ['"swap" given', "an object with the sections experiment, data, devinterp"]),
        (None, ["null given", "an object with the sections"]),
        # combinations
        (
            {"experiment": {"hidden_nodes": [64, 256]}},
            [
                "experiment.hidden_layers: [2] given, of length 1",
                "[64, 256] of length 2",
                "lists of equal length",
            ],
        ),
        (
            {"experiment": {"hidden_nodes": [64, 64], "hidden_layers": [2, 2]}},
            [
                "experiment.hidden_layers: [2, 2] given",
                "experiment.hidden_nodes [64, 64]",
                "each model once",
            ],
        ),
        (
            {"experiment": {"optimizer": "sgd"}},
            [
                'experiment.optimizer: "sgd" given',
                'experiment_type "swap"',
                'allowed there: "both"',
            ],
        ),
        (
            {"experiment": {"cut_off_epochs": 20}},
            [
                "experiment.cut_off_epochs: 20 given",
                "experiment.num_epochs 20",
                ">= 1 and < experiment.num_epochs",
            ],
        ),
        (
            {"experiment": {"cut_off_epochs": 0}},
            ["experiment.cut_off_epochs: 0 given", "an integer >= 1"],
        ),
        (
            {"experiment": {"num_epochs": 5}},
            ["experiment.cut_off_epochs: 10 given", "experiment.num_epochs 5"],
        ),
        (
            {"experiment": {"experiment_type": "standard", "sgd_swap_lr": 0.1}},
            [
                "experiment.sgd_swap_lr: 0.1 given",
                'experiment.experiment_type "standard"',
                "allowed there: null",
            ],
        ),
        (
            {"experiment": {"ngd_arithmetic": "published", "eta": 1}},
            [
                "experiment.eta: 1 given",
                'experiment.ngd_arithmetic "published"',
                "allowed there: < 1",
            ],
        ),
        (
            {"experiment": {"momentum": 0}},
            ["experiment.nesterov: true given", "experiment.momentum 0", "allowed there: false"],
        ),
        (
            {"data": {"dataset": "cifar10", "batch_size": 50_001, "num_hessian_batches": 1}},
            ["data.batch_size: 50001 given", "at most 50000", "cifar10"],
        ),
        (
            {"data": {"batch_size": 6_001}},
            ["data.num_hessian_batches: 10 given", "data.batch_size 6001", "at most 9"],
        ),
        (
            {"devinterp": {"sampler": "sgnht", "localization": 100}},
            ["devinterp.localization: 100 given", '"sgnht"', "allowed there: 0"],
        ),
        (
            {"devinterp": {"sampler_lr": 1e-4}},
            ["devinterp.sampler_lr: 0.0001 given", '"auto"', "allowed: null"],
        ),
        (
            {"devinterp": {"backend": "devinterp"}},
            ['devinterp.backend: "devinterp" given', '"auto"', 'allowed there: "batched"'],
        ),
        (
            {"devinterp": {"sampler": "sgld", "num_draws": None}},
            ["devinterp.num_draws: null given", '"sgld"', "leave it out"],
        ),
        (
            {"devinterp": {"sampler": "sgld", "starts": "checkpoint"}},
            ['devinterp.starts: "checkpoint" given', '"sgld"', 'a part of "auto"'],
        ),
    ],
)
def test_bad_shape_or_combination(content, fragments):
    (problem,) = problems_of(content)
    for fragment in fragments:
        assert fragment in problem


def test_all_problems_are_listed_at_once():
    """Wrong values, unknown keys and senseless combinations together; str() has each on a line of
    its own.
    """
    content = {
        "experiment": {
            "alpha": -1,
            "alhpa": 1,
            "momentum": 0,
            "hidden_layers": [1, 2],
            "measure_epochs": [99],
            "eta": "\n",
        },
        "data": {"batch_size": 1, "dataset": "cifar10"},
        "devinterp": {"sampler": "sgnht", "localization": 5, "nbeta": -2},
        "optimizer": "both",
    }
    with pytest.raises(ConfigError) as error:
        parse_config(content, "my.json")
    starts = [
        "optimizer: ",
        "experiment.alhpa: ",
        "experiment.alpha: ",
        "experiment.eta: ",
        "data.batch_size: ",
        "devinterp.nbeta: ",
        "experiment.hidden_layers: ",
        "experiment.measure_epochs: ",
        "experiment.nesterov: ",
        "devinterp.localization: ",
    ]
    assert len(error.value.problems) == len(starts)
    for start in starts:
        assert sum(problem.startswith(start) for problem in error.value.problems) == 1
    assert str(error.value).splitlines() == [
        f"my.json: {len(starts)} problems",
        *(f"  {p}" for p in error.value.problems),
    ]


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"{'experiment': {}}", "the file is not JSON"),
        (b'{"experiment": {},}', "the file is not JSON"),
        (b'{"data": {}', "line 1, column 12"),
        (b"// comment\n{}", "the file is not JSON"),
        (b'{"data": {"root": "\xff"}}', "the file is not JSON"),
        (b'{"data": {"root": "\\ud800"}}', "data.root: "),
        (b"[" * 200_000, "the file is not JSON"),
        (b'{"data": {"batch_size": ' + b"9" * 5_000 + b"}}", "the file is not JSON"),
        (
            b'{"data": {"batch_size": ' + b"9" * 500 + b"}}",
            "data.batch_size: an integer of hundreds of digits given",
        ),
        (b'{"experiment": {"alpha": 1e999}}', "experiment.alpha: Infinity given"),
        (
            b'{"experiment": {"alpha": 1, "alpha": 2}}',
            "alpha: given twice in one object; allowed: each key once",
        ),
        (b'{"data": {}, "data": {}}', "data: given twice in one object"),
    ],
)
def test_bad_file(tmp_path, content, fragment):
    file = tmp_path / "args.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    (problem,) = error.value.problems
    assert fragment in problem
    assert str(error.value).startswith(f"{file}: 1 problem\n")


def test_repeated_keys_are_listed_with_the_rest(tmp_path):
    file = tmp_path / "args.json"
    file.write_text('{"experiment": {"alpha": 1, "alpha": -1, "eta": 5}}')
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "experiment.alpha",
        "experiment.alpha",
        "experiment.eta",
    ]


def test_no_such_file_and_a_directory(tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(ConfigError, match="the file cannot be read") as error:
            load_config(path)
        assert str(path) in str(error.value)


def test_error_survives_pickling():
    """A refused config in another process arrives here whole."""
    error = pickle.loads(pickle.dumps(ConfigError(["experiment.alpha: -1 given"], "args.json")))
    assert error.problems == ["experiment.alpha: -1 given"]
    assert str(error) == "args.json: 1 problem\n  experiment.alpha: -1 given"


# ---- any number of optimizers --------------------------------------------------------------------

SEVERAL = {
    "experiment": {"optimizer": ["sgd", "ngd", "ngd_smooth", "adamw", "muon"], "momentum": 0.8},
    "optimizers": {"ngd_smooth": {"kind": "ngd", "alpha": 4.0}, "adamw": {"lr": 0.002}},
}


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        ("both", ("sgd", "ngd")),
        ("ngd", ("ngd",)),
        (["ngd", "sgd"], ("ngd", "sgd")),
        (["adamw"], ("adamw",)),
    ],
)
def test_the_first_name_is_the_baseline(optimizer, names):
    experiment = {"optimizer": optimizer, "experiment_type": "standard"}
    assert parse_config({"experiment": experiment}).optimizer_names == names


def test_an_optimizer_is_set_by_its_section_else_by_experiment_else_by_its_kind():
    config = parse_config(SEVERAL)
    assert [config.optimizer_kind(name) for name in config.optimizer_names] == [
        "sgd",
        "ngd",
        "ngd",
        "adamw",
        "muon",
    ]
    sgd, ngd, smooth, adamw, muon = map(config.optimizer_settings, config.optimizer_names)
    experiment = config.experiment
    assert (sgd.lr, sgd.momentum, sgd.nesterov) == (experiment.sgd_lr, 0.8, True)
    assert (ngd.lr, ngd.alpha, ngd.eta, ngd.momentum) == (experiment.ngd_lr, 0.1, 0.9, 0.8)
    assert (ngd.rank, ngd.update_period) == (None, 4)
    assert smooth == ngd.model_copy(update={"alpha": 4.0})
    assert adamw == KINDS["adamw"].settings(lr=0.002)
    assert muon == KINDS["muon"].settings()


def test_an_optimizer_that_the_config_does_not_name_has_no_settings():
    for ask in (Config().optimizer_kind, Config().optimizer_settings):
        with pytest.raises(ValueError, match='"adamw" given; allowed: sgd, ngd'):
            ask("adamw")


def test_the_dump_holds_every_optimizer_of_a_list_and_is_the_same_config_again():
    config = parse_config(SEVERAL)
    dumped = json.loads(json.dumps(config.model_dump(mode="json")))
    assert set(dumped["optimizers"]) == set(SEVERAL["experiment"]["optimizer"])
    assert dumped["optimizers"]["adamw"]["beta2"] == 0.999
    assert parse_config(dumped) == config == pickle.loads(pickle.dumps(config))
    assert parse_config(dumped).model_dump_json() == config.model_dump_json()
    SCHEMA.validate(dumped)
    SCHEMA.validate(SEVERAL)


def test_what_experiment_says_of_sgd_and_ngd_changes_their_sections_too():
    """The dump keeps null where `experiment` says it, so a changed dump means what it says."""
    dumped = parse_config(SEVERAL).model_dump(mode="json")
    dumped["experiment"]["ngd_lr"] = 0.5
    changed = parse_config(dumped)
    assert (
        changed.optimizer_settings("ngd_smooth").lr == changed.optimizer_settings("ngd").lr == 0.5
    )


def test_the_baseline_alone_changes_its_rate_at_the_swap():
    experiment = {"optimizer": ["slow", "sgd", "ngd"], "sgd_swap_lr": 0.003}
    sections = {"slow": {"kind": "sgd", "lr": 0.001}}
    config = parse_config({"experiment": experiment, "optimizers": sections})
    assert config.optimizer_settings("slow").lr == 0.001
    assert config.optimizer_settings("slow", after_swap=True).lr == 0.003
    for name in ("sgd", "ngd"):
        assert config.optimizer_settings(name, after_swap=True).lr == 0.01
    sections["slow"]["swap_lr"] = 0.5
    own = parse_config({"experiment": experiment, "optimizers": sections})
    assert own.optimizer_settings("slow", after_swap=True).lr == 0.5


def test_any_kind_may_train_up_to_the_swap():
    content = {
        "experiment": {"optimizer": ["adamw", "sgd"]},
        "optimizers": {"adamw": {"swap_lr": 1e-4}},
    }
    config = parse_config(content)
    assert config.optimizer_settings("adamw").lr == 1e-3
    assert config.optimizer_settings("adamw", after_swap=True).lr == 1e-4


STANDARD = {"experiment_type": "standard"}


@pytest.mark.parametrize(
    ("experiment", "sections", "fragments"),
    [
        (
            {"optimizer": ["sgd", "adamv"]},
            {},
            ['["sgd", "adamv"] given', '"adamv" is not defined', 'did you mean "adamw"?'],
        ),
        (
            {"optimizer": ["sgd", "ngd_smoth"]} | STANDARD,
            {},
            ["experiment.optimizer: ", '"sgd", "ngd", "adamw", "muon"', "a section in optimizers"],
        ),
        (
            {"optimizer": ["sgd", "ngd", "sgd"]},
            {},
            ["experiment.optimizer: ", 'each name once, but "sgd" and "sgd" are one'],
        ),
        (
            {"optimizer": ["mine", "Mine"]},
            {"mine": {"kind": "ngd"}, "Mine": {"kind": "ngd"}},
            ['each name once, but "mine" and "Mine" are one'],
        ),
        (
            {"optimizer": ["sgd", "NGD"]},
            {"NGD": {"kind": "adamw"}},
            ['experiment.optimizer: ["sgd", "NGD"] given; allowed: "ngd" for "NGD", or a name'],
        ),
        ({"optimizer": ["sgd", "AdamW"]}, {}, ['allowed: "adamw" for "AdamW"']),
        (
            {"optimizer": ["sgd", "both"]},
            {"both": {"kind": "ngd"}},
            ['experiment.optimizer: ["sgd", "both"] given', '"both" is no name'],
        ),
        (
            {"optimizer": ["ngd"]},
            {},
            ["experiment.optimizer: ", 'allowed there: "both", or a list of at least two'],
        ),
        (
            {},
            {"adamw": {}},
            ["optimizers.adamw: a section given", '"both"', "that are trained (sgd, ngd)"],
        ),
        (
            {"optimizer": ["sgd", "a"]},
            {"a": {"kind": "ngd", "alhpa": 4}},
            ["optimizers.a.alhpa: unknown key, 4 given; did you mean optimizers.a.alpha?"],
        ),
        (
            {"optimizer": ["sgd", "adamw"]},
            {"adamw": {"momentum": 0.5}},
            ["optimizers.adamw.momentum: unknown key", "another section: experiment.momentum"],
        ),
        (
            {"optimizer": ["sgd", "a"]},
            {"a": {"lr": 1}},
            ['optimizers.a.kind: nothing given; allowed: "sgd" or "ngd" or "adamw" or "muon"'],
        ),
        (
            {"optimizer": ["sgd", "a"]},
            {"a": {"kind": "admw"}},
            ['optimizers.a.kind: "admw" given; allowed: "sgd"', 'did you mean "adamw"?'],
        ),
        (
            {"optimizer": ["sgd", "ngd"]},
            {"ngd": {"kind": "sgd"}},
            ['optimizers.ngd.kind: "sgd" given; allowed: "ngd"'],
        ),
        (
            {"optimizer": ["sgd", "muon"]},
            {"muon": {"lr": -1}},
            ["optimizers.muon.lr: -1 given; allowed: a finite number > 0"],
        ),
        (
            {"optimizer": ["sgd", "muon"]},
            {"muon": {"lr": 1e31}},
            ["optimizers.muon.lr: 1e+31 given; allowed: a finite number > 0 and <= 1e+30"],
        ),
        (
            {"optimizer": ["sgd", "ngd"]},
            {"ngd": {"momentum": 0}},
            ["optimizers.ngd.nesterov: true given with momentum 0; allowed there: false"],
        ),
        (
            {"optimizer": ["sgd", "muon"]},
            {"muon": {"momentum": 0}},
            ["optimizers.muon.nesterov: true given with momentum 0; allowed there: false"],
        ),
        (
            {"optimizer": ["sgd", "a"]},
            {"a": {"kind": "ngd", "arithmetic": "published", "eta": 1}},
            ["optimizers.a.eta: 1 given", '"published"', "allowed there: < 1"],
        ),
        (
            {"optimizer": ["sgd", "ngd"]} | STANDARD,
            {"sgd": {"swap_lr": 0.1}},
            ['optimizers.sgd.swap_lr: 0.1 given with experiment.experiment_type "standard"'],
        ),
        (
            {"optimizer": ["sgd", "ngd"]},
            {"ngd": {"swap_lr": 0.1}},
            ["optimizers.ngd.swap_lr: 0.1 given", '"sgd" is the first', "allowed there: null"],
        ),
        (
            {"optimizer": ["ngd", "sgd"], "sgd_swap_lr": 0.1},
            {},
            ["experiment.sgd_swap_lr: 0.1 given", '"ngd" is the first', "allowed there: null"],
        ),
        ({"optimizer": "both"}, {"sgd": 3}, ["optimizers.sgd: 3 given; allowed: an object"]),
    ],
)
def test_optimizers_that_make_no_sense(experiment, sections, fragments):
    (problem,) = problems_of({"experiment": experiment, "optimizers": sections})
    for fragment in fragments:
        assert fragment in problem


def test_problems_of_several_optimizers_are_listed_at_once():
    content = {
        "experiment": {"optimizer": ["sgd", "gone", "a"], "momentum": 7},
        "optimizers": {"a": {"kind": "ngd", "alpha": 0, "x": 1}, "b": {"kind": "sgd"}},
    }
    assert [problem.split(": ")[0] for problem in problems_of(content)] == [
        "experiment.momentum",
        "optimizers.a.x",
        "optimizers.a.alpha",
        "experiment.optimizer",
        "optimizers.b",
    ]


def test_a_wrong_momentum_is_one_problem_however_many_optimizers_take_it_over():
    content = {
        "experiment": {"optimizer": ["sgd", "ngd", "a"], "momentum": 0},
        "optimizers": {"a": {"kind": "sgd", "lr": 1.0}},
    }
    (problem,) = problems_of(content)
    assert problem.startswith("experiment.nesterov: true given")


def named(name: str) -> dict:
    experiment = {"optimizer": ["sgd", name]}
    return {"experiment": experiment, "optimizers": {name: {"kind": "sgd"}}}


@pytest.mark.parametrize("name", ["a b", "9-A.b_c", "x" * 40])
def test_a_name_may_have_letters_digits_signs_and_spaces_inside(name):
    assert parse_config(named(name)).optimizer_names == ("sgd", name)
    SCHEMA.validate(named(name))


@pytest.mark.parametrize("name", ["lr=1", "", " a", "a ", ".", "..", "a.", "x" * 41, "é", "a/b"])
def test_a_name_that_would_be_no_file_is_refused(name):
    wrong = [problem for problem in problems_of(named(name)) if "names of at most 40" in problem]
    assert [problem.split(":")[0] for problem in wrong] == [
        "experiment.optimizer",
        key_below("optimizers", name),
    ]
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({"optimizers": {name: {"kind": "sgd"}}})


def test_combinations_are_refused_from_python_too():
    with pytest.raises(ValueError, match=r"nesterov: true given with experiment\.momentum"):
        ExperimentSettings(momentum=0)
    with pytest.raises(ValueError, match=r"eta: 1\.0 given"):
        KINDS["ngd"].settings(eta=1, arithmetic="published")
    with pytest.raises(ValueError, match=r"optimizers\.adamw: a section given"):
        Config(optimizers={"adamw": {"lr": 0.1}})


def test_names_from_python_are_checked_like_those_of_a_config():
    check_optimizer_names(["mine", "sgd"], "swap")
    check_optimizer_names(["mine"], "standard")
    for names, kind, problem in (
        (["mine"], "swap", "a list of at least two"),
        (["mine", "Mine"], "swap", "each name once"),
        (["a/b", "sgd"], "swap", "names of at most 40 letters"),
        (["SGD", "mine"], "swap", 'allowed: "sgd" for "SGD"'),
        (["both", "mine"], "swap", '"both" is no name'),
        ([1, "mine"], "swap", r'optimizers: \[1, "mine"\] given; allowed: a list of names of'),
        ([], "standard", "not empty"),
    ):
        with pytest.raises(ValueError, match=problem):
            check_optimizer_names(names, kind)


@pytest.mark.parametrize(
    "optimizers",
    [
        {"a": {"lr": 0.1}},
        {"a": {"kind": "x"}},
        {"adamw": {"momentum": 1}},
        {"a/b": {"kind": "sgd"}},
    ],
)
def test_schema_refuses_optimizers_that_are_not_defined(optimizers):
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({"optimizers": optimizers})


# ---- any config ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
SECTION = {
    name: st.dictionaries(st.sampled_from(list(DEFAULTS[name])) | st.text(max_size=6), JSON)
    for name in LISTED_SECTIONS
}
SECTION["optimizers"] = st.dictionaries(
    st.sampled_from(["sgd", "ngd", "a"]) | st.text(max_size=6),
    st.fixed_dictionaries({}, optional={"kind": st.sampled_from(["sgd", "x"]), "momentum": JSON})
    | JSON,
)


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional=SECTION) | JSON)
def test_anything_is_accepted_or_refused_and_nothing_else(content):
    try:
        config = parse_config(content)
    except ConfigError as error:
        problems = error.problems
    else:
        problems = []
        assert parse_config(config.model_dump()) == config
    assert all(problem and len(problem.split("\n")) == 1 for problem in problems)


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "experiment_type": st.just("standard"),
            "optimizer": st.just("both"),
            "alpha": st.floats(1e-8, 1e8) | st.integers(1, 10**8),
            "eta": st.floats(1e-30, 1),
            "delta": st.just(0.0) | st.floats(1e-30, 1, exclude_max=True),
            "num_epochs": st.integers(11, 1000),
            "seed": st.integers(0, 2**32 - 1),
            "measure_epochs": st.lists(st.integers(0, 11), min_size=1, unique=True),
        },
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "nbeta": st.floats(1e-3, 1e6),
            "sampler": st.sampled_from(["auto", "sgld", "sgnht"]),
        },
    ),
)
def test_what_is_accepted_survives_json_in_both_forms(experiment, devinterp):
    config = parse_config({"experiment": experiment, "devinterp": devinterp})
    written = json.loads(config.model_dump_json())
    assert parse_config(written) == parse_config(published_form(written)) == config
    SCHEMA.validate(written)


# ---- the JSON Schema -----------------------------------------------------------------------------


def test_schema_accepts_the_primary_config_and_requires_nothing():
    schema = SCHEMA.schema
    jsonschema.Draft202012Validator.check_schema(schema)
    SCHEMA.validate(json.loads((REPOSITORY / "args_ngd_sgd.json").read_text(encoding="utf-8")))
    SCHEMA.validate({})
    for part in (schema, *schema["$defs"].values()):
        assert not part.get("required")
        assert part["additionalProperties"] is False
    for section in schema["$defs"].values():
        for key in section["properties"].values():
            assert key["description"]
            assert "default" in key


# 20.0 is an integer to JSON Schema, NaN is no JSON, and combinations of keys are beyond it.
BEYOND_JSON_SCHEMA = (
    "20.0",
    "[2.0]",
    "NaN",
    "Infinity",
    "-Infinity",
    "[1, 2, 1]",
    "[0, 21]",
    "469",
)


@pytest.mark.parametrize(
    ("section", "key", "value"), [bad[:3] for bad in BAD_VALUES if bad[2] not in BEYOND_JSON_SCHEMA]
)
def test_schema_refuses_what_load_config_refuses(section, key, value):
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({section: {key: json.loads(value)}})
