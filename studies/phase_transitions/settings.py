"""What may a config of the study of phase transitions say? A run's config, other defaults, and two
sections more.
"""

from pydantic import Field

from degeneracy.config.section import Section, rule, with_defaults
from degeneracy.config.words import shown
from degeneracy.data.settings import TRAIN_SIZES
from degeneracy.llc.settings import SamplerSettings
from degeneracy.runs.config import Config, DataSettings, ExperimentSettings

# So deep and at this rate both optimizers sit on a plateau for 500 to 800 steps.
DeepExperiment = with_defaults(
    ExperimentSettings,
    experiment_type="standard",
    robustness=False,
    hidden_nodes=[64],
    hidden_layers=[8],
    hidden_conv_layers=[7],
    num_epochs=18,
    sgd_lr=0.02,
    ngd_lr=0.02,
)
SmallData = with_defaults(DataSettings, dataset="mnist", batch_size=64, num_hessian_batches=3)
ShortSampling = with_defaults(
    SamplerSettings,
    sampler="sgld",
    num_chains=2,
    num_draws=400,
    num_burnin_steps=300,
    sampler_lr=1e-4,
    nbeta=100.0,
)


@rule("robustness")
def robustness_is_not_measured(robustness: bool) -> str | None:
    """This study has no grid."""
    if robustness:
        return "true given; allowed: false, for this study does not measure it"
    return None


class TransitionExperiment(DeepExperiment):
    """What is trained, how, and when it is measured."""

    rules = (robustness_is_not_measured,)


@rule("num_train_images", "dataset")
def images_are_there(num_images: int | None, dataset: str) -> str | None:
    """A training set has so many images."""
    if num_images is not None and num_images > TRAIN_SIZES[dataset]:
        return f"{num_images} given; allowed: at most {TRAIN_SIZES[dataset]}, or null"
    return None


@rule("num_train_images", "batch_size", "num_hessian_batches")
def curvature_batches_are_there(
    num_images: int | None, batch_size: int, num_batches: int
) -> str | None:
    """Curvature is taken on so many batches of them."""
    if num_images is not None and num_images < batch_size * num_batches:
        return (
            f"{num_images} given; allowed: at least data.batch_size · data.num_hessian_batches,"
            f" {batch_size * num_batches}"
        )
    return None


class ImageSettings(SmallData):
    """A run's data, cut to its first images: so an epoch is short enough to look after each."""

    rules = (images_are_there, curvature_batches_are_there)

    num_train_images: int | None = Field(
        6400, ge=2, description="The first ones of the training set; null: all."
    )
    num_test_images: int | None = Field(
        1000, ge=1, le=10_000, description="The first of the test set; null: all."
    )


@rule("sampler")
def sampler_has_localization(sampler: str) -> str | None:
    """SGNHT samples without γ."""
    if sampler == "sgnht":
        return '"sgnht" given; allowed: others, for it has no γ to compare spectra at'
    return None


@rule("localization", "sampler")
def localization_is_positive(localization: float, sampler: str) -> str | None:
    """A spectrum's predicted LLC needs one."""
    if localization == 0 and sampler != "sgnht":
        return f"{shown(localization)} given; allowed: above 0, for spectra are compared at γ/nβ"
    return None


class LocalSampling(ShortSampling):
    """How the local learning coefficient (LLC) is sampled: the config's `devinterp` section."""

    rules = (sampler_has_localization, localization_is_positive)


@rule("flat", "steep")
def flat_is_below_steep(flat: float, steep: float) -> str | None:
    """No epoch is both."""
    if flat >= steep:
        return f"{shown(flat)} given; allowed: below transitions.steep, {shown(steep)}"
    return None


class TransitionSettings(Section):
    """What counts as a transition: the arguments of `rule.find_transitions`, on the validation
    loss.
    """

    rules = (flat_is_below_steep,)

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


@rule("num_eigenvalues", "num_steps")
def eigenvalues_are_found(num_eigenvalues: int, num_steps: int) -> str | None:
    """Lanczos finds one a step at most."""
    if num_eigenvalues > num_steps:
        return f"{num_eigenvalues} given; allowed: at most curvature.num_steps, {num_steps}"
    return None


class CurvatureSettings(Section):
    """How the spectrum is measured after every epoch, on data.num_hessian_batches batches of
    images.
    """

    rules = (eigenvalues_are_found,)

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


class Settings(Config):
    """LLC and curvature where training leaves a plateau; every key has a default."""

    published_form = ()

    experiment: TransitionExperiment = Field(default_factory=TransitionExperiment)
    data: ImageSettings = Field(default_factory=ImageSettings)
    devinterp: LocalSampling = Field(default_factory=LocalSampling)
    transitions: TransitionSettings = Field(default_factory=TransitionSettings)
    curvature: CurvatureSettings = Field(default_factory=CurvatureSettings)
