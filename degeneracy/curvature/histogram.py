"""How is the diagonal of a Fisher information spread? Shares of the weights in fixed bins, few
enough for JSON.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

# bins of a Fisher diagonal, the same for all epochs and runs
LEAST_LOG, GREATEST_LOG, BINS_A_DECADE = (-16, 4, 4)
# log10
BIN_EDGES = np.linspace(LEAST_LOG, GREATEST_LOG, BINS_A_DECADE * (GREATEST_LOG - LEAST_LOG) + 1)


def diagonal_histogram(diagonal: Float[np.ndarray, " d"]) -> dict[str, Any]:
    """Shares of all weights in fixed log bins, as JSON can hold them: few numbers in place of d,
    that compare.

    Args:
        diagonal: Of a Fisher information, ≥ 0.

    Returns:
        `shares`, one for each pair of neighbouring `BIN_EDGES` (log10; what lies beyond them counts
        in the end bins), and `zeros`, the share that is exactly 0. Together they sum to 1.

    Raises:
        ValueError: No elements, or one that is negative or not finite.
    """
    values = np.asarray(diagonal, dtype=float)
    if not len(values) or not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(
            "the diagonal is empty or has an element that is negative or not finite; allowed: ≥ 0"
        )
    logs = np.log10(values[values > 0]).clip(LEAST_LOG, GREATEST_LOG)
    counts, _ = np.histogram(logs, BIN_EDGES)
    return {"shares": (counts / len(values)).tolist(), "zeros": float(np.mean(values == 0))}
