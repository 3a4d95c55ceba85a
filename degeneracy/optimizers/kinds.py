"""Which optimizer does a name mean? The kinds there are; another one is a file and a line here."""

from degeneracy.optimizers import adamw, muon, ngd, sgd
from degeneracy.optimizers.settings import Kind

KINDS: dict[str, Kind] = {"sgd": sgd.KIND, "ngd": ngd.KIND, "adamw": adamw.KIND, "muon": muon.KIND}
