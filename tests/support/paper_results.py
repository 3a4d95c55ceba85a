"""Results of the paper's study made by formula, so that a test knows what must come out."""

from studies.paper.measure import SERIES
from studies.paper.settings import Settings

LAST, CUT_OFF = 30, 15
MEASURED = (0, 8, 15, 16, 18, 20, 25, 30)
NETWORKS = (("mnist", 2, 64), ("mnist", 2, 256), ("fashion-mnist", 1, 64))


def made_row(optimizer, seed, dataset="mnist", layers=2, nodes=64, last=LAST, **factors):
    """A finished row whose numbers are formulas: λ̂ = 20 + epoch/10 + seed, and 1.5 an epoch of
    NGD after the swap; losses e^(−epoch/15), for NGD e^(−epoch/10)."""
    is_ngd = optimizer.startswith("ngd")
    gain = 1.5 * is_ngd / (1 + factors.get("alpha", 0.1)) if is_ngd else 0.0
    own = {"lr": 1e-4} | ({"alpha": 0.1, "epsilon": 1e-10} if is_ngd else {})
    own |= {"kind": "ngd" if is_ngd else "sgd", "nbeta": "batch", "localization": 100.0}
    own |= {"cut_off_epochs": CUT_OFF, "num_epochs": last} | factors
    first = own["cut_off_epochs"] if is_ngd else 0
    epochs = range(last + 1)

    def loss(epoch):
        faster = (epoch - own["cut_off_epochs"]) / 10 if is_ngd else 0
        return 2.3 * 2.718281828 ** (-epoch / 15 - max(faster, 0)) * (1 + seed / 1000)

    def llc(epoch):
        return 20 + nodes / 16 + epoch / 10 + seed**2 / 5 + gain * max(epoch - first, 0)

    measured = {e: llc(e) for e in epochs if e >= first and (e in MEASURED or last != LAST)}
    there = {e: loss(e) for e in epochs if e >= first}
    values = {
        "llc": measured,
        "llc_std_error": dict.fromkeys(measured, 3.0),
        "llc_drift": dict.fromkeys(measured, 0.5),
        "llc_init_loss": {e: loss(e) for e in measured},
        "num_diverged_chains": dict.fromkeys(measured, 0),
        "num_unsettled_chains": dict.fromkeys(measured, 0),
        "wbic": {e: 60_000 * loss(e) + 100 * e for e in measured},
        "wbic_std_error": dict.fromkeys(measured, 50.0),
        "train_loss": there,
        "val_loss": {e: v + (e / last) ** 2 / 2 for e, v in there.items()},
        "val_accuracy": dict.fromkeys(there, 0.9),
        "update_norm": {e: (0.006 if is_ngd else 0.0006) + seed * 1e-5 for e in there if e},
        "hessian_trace": {e: 10 * v for e, v in measured.items()},
        "hessian_trace_std_error": dict.fromkeys(measured, 4.0),
    }
    assert tuple(values) == SERIES
    kappa = 1e-6 * (own["alpha"] + own["epsilon"]) if is_ngd else 0.0
    kappas = [kappa if e > first else None for e in epochs]
    series = {key: [found.get(e) for e in epochs] for key, found in values.items()}
    return {
        "run": f"{nodes}_{seed}",
        "status": "finished",
        "reason": "",
        "optimizer": optimizer,
        "factors": {
            "dataset": dataset,
            "model_type": "ffnn",
            "hidden_layers": layers,
            "hidden_nodes": nodes,
            "seed": seed,
            **own,
        },
        "model": f"FFNN {layers} HL, {nodes} HN",
        "num_parameters": 1000 * nodes,
        "nbeta": 26.38 if own["nbeta"] == "batch" else 5453.6,
        "train_size": 60_000,
        "diverged_epoch": None,
        "series": series,
        "kappa": {"w": {"0": kappas, "1": [k and 4 * k for k in kappas]}} if is_ngd else {},
    }


def failed_row(optimizer, seed):
    """A row of a run that failed."""
    row = made_row(optimizer, seed)
    kept = {key: row[key] for key in ("run", "optimizer", "factors")}
    return {**kept, "status": "failed", "reason": "OutOfMemoryError: no room"}


def made_results(num_seeds=5, **parts):
    """Results of the default config with so many seeds in every part, or with `parts` instead."""
    seeds = range(1, num_seeds + 1)
    both = ("sgd", "ngd")
    alphas = {f"ngd alpha {a:g}": {"alpha": a} for a in (0.1, 1.0, 50.0)}
    floors = {f"ngd epsilon {e:g}": {"epsilon": e} for e in (1e-10, 0.1)}
    made = {
        "sizes": {
            f"mnist, 2 hidden layers, seed {s}": [
                made_row(o, s, nodes=n) for n in (256, 64) for o in both
            ]
            for s in seeds
        },
        "smoothing": {
            f"seed {s}": [
                made_row(name, s, nodes=256, **how)
                for scan in (alphas, floors)
                for name, how in ({"sgd": {}} | scan).items()
            ]
            for s in seeds
        },
        "rates": {
            f"seed {s}": [
                made_row("sgd", s, nodes=256),
                made_row("ngd", s, nodes=256),
                made_row("sgd x10", s, nodes=256, lr=1e-3),
            ]
            for s in seeds
        },
        "overfitting": {
            f"seed {s}": [
                made_row(o, s, nodes=256, last=10, cut_off_epochs=0, nbeta=nbeta)
                for nbeta in ("dataset", "batch")
                for o in both
            ]
            for s in seeds
        },
        "other_sizes": {
            f"fashion-mnist, 1 hidden layer, seed {s}": [
                made_row(o, s, "fashion-mnist", 1) for o in both
            ]
            for s in seeds
        },
    }
    found = parts or made
    return {
        "study": "paper",
        "status": "running",
        "config": Settings().model_dump(mode="json"),
        "parts": {
            part: {k: {"sweep": "", "core_seconds": 1.0, "rows": r} for k, r in of.items()}
            for part, of in found.items()
        },
    }
