"""What notebooks use, gathered: configs, data, models, runs, LLCs, figures and reports."""

from degeneracy.config.reader import ConfigError
from degeneracy.curvature.trace import hessian_trace
from degeneracy.data.images import DataSplits, TensorData, load_data
from degeneracy.llc.calibration import calibrate
from degeneracy.llc.estimate import estimate_llcs
from degeneracy.llc.grid import llc_grid
from degeneracy.llc.settings import SamplerSettings
from degeneracy.llc.statistics import paired_difference
from degeneracy.models.balance import balanced, rescaled_units
from degeneracy.models.networks import DLNN, FFNN, LeNet5
from degeneracy.report.calibration_figure import calibration_figure
from degeneracy.report.page import write_figs_to_html
from degeneracy.report.run_figures import (
    hessian_trace_figure,
    llc_against_loss_figure,
    llc_figure,
    loss_figure,
    running_mean_figure,
    update_norm_figure,
    wbic_figure,
)
from degeneracy.runs.config import Config, load_config
from degeneracy.runs.run import final_weights
from degeneracy.study import finish
from degeneracy.training import evaluate, train
from ngd import NGD
from studies.ngd_sgd import (
    measure_hessian_traces,
    measure_llcs,
    measure_local,
    measure_robustness,
    open_run,
    train_models,
)
from studies.ngd_sgd.figures import cosine_figure, kappa_figure
from studies.ngd_sgd.findings import findings
from studies.ngd_sgd.local_figures import local_llc_figure
from studies.ngd_sgd.robustness_figures import llc_grid_figure, rescaling_figure
from studies.ngd_sgd.verdict import verdicts

__all__ = [
    "DLNN",
    "FFNN",
    "NGD",
    "Config",
    "ConfigError",
    "DataSplits",
    "LeNet5",
    "SamplerSettings",
    "TensorData",
    "balanced",
    "calibrate",
    "calibration_figure",
    "cosine_figure",
    "estimate_llcs",
    "evaluate",
    "final_weights",
    "findings",
    "finish",
    "hessian_trace",
    "hessian_trace_figure",
    "kappa_figure",
    "llc_against_loss_figure",
    "llc_figure",
    "llc_grid",
    "llc_grid_figure",
    "load_config",
    "load_data",
    "local_llc_figure",
    "loss_figure",
    "measure_hessian_traces",
    "measure_llcs",
    "measure_local",
    "measure_robustness",
    "open_run",
    "paired_difference",
    "rescaled_units",
    "rescaling_figure",
    "running_mean_figure",
    "train",
    "train_models",
    "update_norm_figure",
    "verdicts",
    "wbic_figure",
    "write_figs_to_html",
]
