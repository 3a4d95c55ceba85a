"""What may a config of the study of natural gradients say? What each of its sections may."""

from pydantic import Field

from degeneracy.config.section import Section
from studies.natural_gradients.comparison.settings import Settings as ComparisonSettings
from studies.natural_gradients.dually_flat.settings import Settings as DuallyFlatSettings
from studies.natural_gradients.energy.settings import Settings as EnergySettings
from studies.natural_gradients.overparameterised.settings import (
    Settings as OverparameterisedSettings,
)
from studies.natural_gradients.seng.settings import Settings as SengSettings
from studies.natural_gradients.sp_ngd.settings import Settings as SpNgdSettings
from studies.natural_gradients.states.settings import Settings as StatesSettings


class Settings(Section):
    """Natural gradients, from exact to approximate; every key has a default."""

    overparameterised: OverparameterisedSettings = Field(default_factory=OverparameterisedSettings)
    energy: EnergySettings = Field(default_factory=EnergySettings)
    states: StatesSettings = Field(default_factory=StatesSettings)
    seng: SengSettings = Field(default_factory=SengSettings)
    sp_ngd: SpNgdSettings = Field(default_factory=SpNgdSettings)
    dually_flat: DuallyFlatSettings = Field(default_factory=DuallyFlatSettings)
    comparison: ComparisonSettings = Field(default_factory=ComparisonSettings)
