"""What may a config of the study of phase transitions say? A run's config, other defaults, and two
sections more.
"""

import os
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from degeneracy.config.reader import Section, read_settings
from degeneracy.runs.config import Config, DataSettings
from degeneracy.runs.rules import TRAIN_SIZES

# Where they differ from a run's. So deep and at this rate both optimizers sit on a plateau for 500
# to 800 steps.
DEFAULTS: dict[str, dict[str, Any]] = {
    "experiment": {
        "experiment_type": "standard",
        "robustness": False,
        "hidden_nodes": [64],
        "hidden_layers": [8],
        "hidden_conv_layers": [7],
        "num_epochs": 18,
        "sgd_lr": 0.02,
        "ngd_lr": 0.02,
    },
    "data": {"dataset": "mnist", "batch_size": 64, "num_hessian_batches": 3},
    "devinterp": {"num_draws": 400, "num_burnin_steps": 300, "nbeta": 100.0},
}


class ImageSettings(DataSettings):
    """A run's data, cut to its first images: so that an epoch is short enough to look after each."""

    num_train_images: int | None = Field(
        6400, ge=2, description="The first ones of the training set; null: all."
    )
    num_test_images: int | None = Field(
        1000, ge=1, le=10_000, description="The first of the test set; null: all."
    )

    @model_validator(mode="after")
    def _are_there(self) -> Self:
        size = TRAIN_SIZES[self.dataset]
        if self.num_train_images is None:
            return self
        if self.num_train_images > size:
            raise ValueError(
                f"num_train_images: {self.num_train_images} given; allowed: at most {size}, or null"
            )
        if (wanted := self.batch_size * self.num_hessian_batches) > self.num_train_images:
            raise ValueError(
                f"num_train_images: {self.num_train_images} given; allowed: at least batch_size ·"
                f" num_hessian_batches, {wanted}"
            )
        return self


class TransitionSettings(Section):
    """What counts as a transition: the arguments of `rule.find_transitions`, on the validation
    loss.
    """

    flat: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Largest change of the loss in a flat epoch, share of its range.",
    )
    steep: float = Field(
        0.1, gt=0, le=1, description="Smallest fall of a steep epoch, share of the loss's range."
    )
    min_plateau: int = Field(2, ge=1, description="Flat epochs in a row that make a plateau.")

    @model_validator(mode="after")
    def _are_ordered(self) -> Self:
        if self.flat >= self.steep:
            raise ValueError(f"flat: {self.flat} given; allowed: below steep, {self.steep}")
        return self


class CurvatureSettings(Section):
    """How the spectrum is measured after every epoch, on data.num_hessian_batches batches of
    images.
    """

    num_probes: int = Field(
        4, ge=2, le=10_000, description="Probes of the Hessian's spectrum; an error needs two."
    )
    num_steps: int = Field(80, ge=2, le=10_000, description="Lanczos steps a probe.")
    num_eigenvalues: int = Field(
        5, ge=1, le=1_000, description="Largest eigenvalues shown; at most num_steps."
    )
    num_gap_probes: int = Field(
        10, ge=2, le=10_000, description="Probes of the distances of Hessian and Fisher."
    )

    @model_validator(mode="after")
    def _are_found(self) -> Self:
        if self.num_eigenvalues > self.num_steps:
            raise ValueError(
                f"num_eigenvalues: {self.num_eigenvalues} given; allowed: at most num_steps"
            )
        return self


class Settings(Config):
    """The whole study's; every key has a default."""

    data: ImageSettings = Field(default_factory=ImageSettings)
    transitions: TransitionSettings = Field(default_factory=TransitionSettings)
    curvature: CurvatureSettings = Field(default_factory=CurvatureSettings)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        sections = {name: given.get(name, {}) for name in DEFAULTS}
        filled = {
            name: DEFAULTS[name] | s for name, s in sections.items() if isinstance(s, Mapping)
        }
        return {**given, **filled}

    @model_validator(mode="after")
    def _is_measured(self) -> Self:
        if self.devinterp.sampler == "sgnht":
            raise ValueError(
                'devinterp.sampler: "sgnht" given; allowed: others, for it has no γ to compare'
                " spectra at"
            )
        if self.devinterp.localization <= 0:
            raise ValueError(
                "devinterp.localization: 0 given; allowed: above 0, for spectra are compared at"
                " γ/nβ"
            )
        if self.experiment.robustness:
            raise ValueError(
                "experiment.robustness: true given; allowed: false, for this study does not"
                " measure it"
            )
        return self


def load_settings(path: str | os.PathLike[str]) -> Settings:
    """The study's config from a JSON file; raises as `config.reader.read_settings`."""
    return read_settings(path, Settings)
