"""Which network may a config name, and of which size?"""

from typing import Annotated, Literal

from pydantic import Field

from degeneracy.config.section import rule
from degeneracy.models.networks import ARCHITECTURES, HEADS

Architecture = Annotated[
    Literal[*ARCHITECTURES],
    Field(
        description=(
            "ReLU network; the same with a path around every hidden layer; or a small vision"
            " transformer, whose units are its width and whose layers are its blocks."
        )
    ),
]


@rule("architecture", "hidden_nodes")
def heads_share_the_width(architecture: str, hidden_nodes: int) -> str | None:
    """A transformer's heads are of one width."""
    if architecture == "vit" and hidden_nodes % HEADS:
        return f"vit given with hidden_nodes {hidden_nodes}; allowed: a multiple of {HEADS}"
    return None
