"""Which optimizer does a name mean? The kinds there are; another one is a file and a line here."""

from degeneracy.optimizers import adamw, exact_ngd, muon, ngd, seng, sgd, soap, spngd
from degeneracy.optimizers.settings import Kind

KINDS: dict[str, Kind] = {
    "sgd": sgd.KIND,
    "ngd": ngd.KIND,
    "adamw": adamw.KIND,
    "muon": muon.KIND,
    "soap": soap.KIND,
    "spngd": spngd.KIND,
    "seng": seng.KIND,
    "exact_ngd": exact_ngd.KIND,
}
LAYERED = ("spngd", "seng")  # kinds that are made of a network's Linear and Conv2d layers
