"""`python -m studies.sgd_regimes nn|linearized|full|spectral|all …`: see `commands.py`."""

import sys

from studies.sgd_regimes.commands import main

if __name__ == "__main__":
    sys.exit(main())
