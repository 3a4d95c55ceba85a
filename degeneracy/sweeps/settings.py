"""What may the config of a study made of many runs say of how they are done?"""

from typing import Annotated

from pydantic import Field

from degeneracy.config.section import Section
from degeneracy.sweeps.running import Resources


class RunsSettings(Section):
    """How the runs are done."""

    threads: int = Field(1, ge=1, le=1024, description="CPU threads a run.")
    at_once: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Runs at a time at most; null: as many as the machine's CPUs allow."
    )
    address: str | None = Field(
        None, description="HOST:PORT of a Ray cluster, or auto; null: Ray on this machine."
    )
    retries: int = Field(2, ge=0, le=100, description="How often a run that failed is done again.")

    @property
    def resources(self) -> Resources:
        """As `sweeps.sweep.run_sweep` takes them."""
        return Resources(address=self.address, threads=self.threads, at_once=self.at_once)
