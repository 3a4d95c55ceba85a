"""Which studies are there? Every folder here that declares a `STUDY`; `make help` lists them.

A study added as a folder appears by itself: in `make help`, as `make STUDY`, to `experiment.py`.
"""

import importlib
import pkgutil

from degeneracy.config.reader import ConfigError
from degeneracy.config.words import closest
from degeneracy.study import Study


def names() -> list[str]:
    """The studies' names, sorted."""
    return [name for name in _folders() if _declared(name) is not None]


def find(name: str, where: str = "config") -> Study:
    """The study called `name`.

    Raises:
        ConfigError: There is none; it names the closest one.
    """
    study = _declared(name) if name in _folders() else None
    if study is not None:
        return study
    known = names()
    hint = f"did you mean {near}? " if (near := closest(name, known)) is not None else ""
    raise ConfigError([f"study: {name!r} given; {hint}allowed: {', '.join(known)}"], where)


def _folders() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def _declared(name: str) -> Study | None:
    """What the folder's `__init__.py` declares; None where it is no study."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), "STUDY", None)
