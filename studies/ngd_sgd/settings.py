"""What may a config of the comparison of optimizers say? A run's config, nothing else."""

from degeneracy.runs.config import Config as Settings

__all__ = ["Settings"]
