"""Does natural gradient descent end in less degenerate solutions than SGD, and than others?

    run = open_run(load_config("args_ngd_sgd.json"))
    train_models(run)
    measure_llcs(run)
    measure_local(run)
    measure_robustness(run)
    measure_hessian_traces(run)
    report = finish(run)

Every finished epoch and measurement is kept in the run directory at once; the same calls on the
same directory go on where the last ones stopped.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from degeneracy.data.images import DataSplits
from degeneracy.device import chosen_device
from degeneracy.effort import refuse_beyond_reason
from degeneracy.runs.config import Config
from degeneracy.runs.measurements import HESSIAN, LLC
from degeneracy.runs.results import optimizers as compared
from degeneracy.runs.run import ModelFactories, OptimizerFactory, Run, new_run, run_name
from degeneracy.runs.training import TRAIN
from degeneracy.study import Study, default_directory
from degeneracy.study import measure as do_parts  # `measure` is a module here
from degeneracy.texts import label, listed
from studies.ngd_sgd.figures import study_figures
from studies.ngd_sgd.findings import findings
from studies.ngd_sgd.local_measure import LOCAL
from studies.ngd_sgd.measure import ROBUSTNESS
from studies.ngd_sgd.settings import Settings


def title(results: Mapping) -> str:
    """`SGD and NGD on fashion-mnist, swap run`."""
    names = listed([label(name) for name in compared(results)])
    config = results["config"]
    return f"{names} on {config['data']['dataset']}, {config['experiment']['experiment_type']} run"


STUDY = Study(
    name="ngd_sgd",
    question="Does NGD end in less degenerate solutions than SGD?",
    minutes=12,
    title=title,
    settings=Settings,
    parts={
        "train": TRAIN,
        "llc": LLC,
        "local": LOCAL,
        "robustness": ROBUSTNESS,
        "hessian": HESSIAN,
    },
    figures=study_figures,
    findings=findings,
    opens=new_run,
    run_name=run_name,
    config="args_ngd_sgd.json",
)


def open_run(
    config: Config,
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    *,
    models: ModelFactories | None = None,
    optimizers: Mapping[str, OptimizerFactory] | None = None,
    data: DataSplits | None = None,
    large: bool = False,
) -> Run:
    """Loads the data and opens the run directory, with all that an earlier call left there.

    Args:
        config: From `load_config`.
        out: Run directory; None: `experiments/ngd_sgd/<run>`, one for each config.
        device: `"cpu"`, `"cuda"`, or `"auto"` (CUDA where there is one).
        models: Title → a function that builds an untrained model, in place of the config's.
        optimizers: Name → a function of a model that gives a `torch.optim.Optimizer` over its
            parameters, or a `degeneracy.stepper.Stepper`; as many as one likes, in place of the
            config's. The first is the baseline, and trains up to the cut-off of a swap.
        data: `.train` and `.test`, each (inputs, labels), in place of the config's data set: finite
            inputs, classes from 0 on as int64, at least a batch to train on. The directory keeps
            its digest, and goes on with no other data.
        large: Whether work beyond reason is meant, see `effort.refuse_beyond_reason`.

    Raises:
        ValueError: Something of your own without a directory of its own; names or titles that are
            not allowed; data that cannot be trained on; or a model whose forward pass is random or
            keeps batch statistics.
        config.reader.ConfigError: The run does not fit into memory, or is beyond reason.
        device.DeviceError: CUDA was asked for and there is none.
        data.files.DataError: The data set cannot be had.
        runs.store.RunStoreError: The directory cannot be used, or holds another run.
    """
    if not large:
        refuse_beyond_reason(config)
    own = {"models": models, "optimizers": optimizers, "data": data}
    if out is None and any(given is not None for given in own.values()):
        raise ValueError(
            "models, optimizers or data of your own need a run directory of their own: pass out="
        )
    out = default_directory(STUDY, config) if out is None else Path(out)
    return new_run(STUDY, config, out, chosen_device(device), **own)


def train_models(run: Run) -> None:
    """Trains every model with every optimizer; epochs whose checkpoint is there are left."""
    do_parts(run, "train")


def measure_llcs(run: Run) -> None:
    """LLC and WBIC at the config's epochs."""
    do_parts(run, "llc")


def measure_local(run: Run) -> None:
    """Local estimates of the last checkpoints, with their certificates; with the sampler auto."""
    do_parts(run, "local")


def measure_robustness(run: Run) -> None:
    """Where the config asks for it: does the final LLCs' order survive other γ, nβ, a rescaling?"""
    do_parts(run, "robustness")


def measure_hessian_traces(run: Run) -> None:
    """Hessian traces at the config's epochs, where the config asks for them."""
    do_parts(run, "hessian")
