"""Which files say what a config may say? `python -m studies.schemas` writes them: a JSON Schema for
every study, and docs/config.md.
"""

import json
from pathlib import Path

import studies
from degeneracy.config.reader import DEFAULT_STUDY
from degeneracy.config.schema import json_schema, tables
from degeneracy.config.section import LEAST, MOST
from degeneracy.files import write_atomically
from degeneracy.runs.work import PROJECT
from degeneracy.study import Study

HEAD = f"""# What a config may say

Written by `python -m studies.schemas` from the studies' settings; a test compares. A config is a
JSON object of sections. Whatever is left out has its default; an unknown key, a wrong value or a
combination that makes no sense is refused before anything runs, with all problems listed at once. A
number is 0 or between {LEAST:g} and {MOST:g} in size, so that float32 can compute with it.

Beside the sections every config may have `"study"`, the study that it is for (default `"ngd_sgd"`),
and `"$schema"`, the path of the study's JSON Schema, by which editors check and complete.

The sections that a key holds stand below it: `deep_linear.networks[…]` is each network of the list,
`optimizers, kind ngd` each optimizer of that kind.
"""
OPTIMIZERS = """`experiment.optimizer` names the optimizers that a run compares: kinds, or keys of
the section `optimizers`:

```json
"experiment": {"optimizer": ["sgd", "ngd", "ngd_smooth", "adamw"]},
"optimizers": {"ngd_smooth": {"kind": "ngd", "alpha": 4.0}, "adamw": {"lr": 0.001}}
```

A section that is called like a kind need not name it. What it does not say, `experiment` says for
the kinds `sgd` and `ngd`, and the kind's default otherwise. Of a swap, the first optimizer trains
up to the cut-off; it alone may have a `swap_lr`.
"""


def files() -> dict[Path, str]:
    """Path → content, of every file that is made from settings."""
    names = sorted(studies.names(), key=lambda name: name != DEFAULT_STUDY)
    found = [studies.find(name) for name in names]
    made = {schema_path(study): _schema_text(study) for study in found}
    return {**made, PROJECT / "docs" / "config.md": reference(found)}


def schema_path(study: Study) -> Path:
    """Where a study's JSON Schema lies: beside its default config."""
    return study.config_path.with_suffix(".schema.json")


def _schema_text(study: Study) -> str:
    schema = json_schema(study.settings, study.name)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def reference(found: list[Study]) -> str:
    """The config reference, in Markdown; a table that was there before is not printed again."""
    parts, places = [HEAD], {}
    for study in found:
        config = study.config_path.relative_to(PROJECT)
        about = json_schema(study.settings, study.name)["description"]
        parts.append(f"## {study.name}\n\n{about} Its default config is `{config}`.\n")
        if "optimizers" in study.settings.model_fields and OPTIMIZERS not in parts:
            parts.append(OPTIMIZERS)
        for name, table in tables(study.settings).items():
            first = places.setdefault(table, study.name)
            body = table if first == study.name else f"As in `{first}`."
            parts.append(f"### {study.name}: `{name}`\n\n{body}\n")
    return "\n".join(parts)


def main() -> None:
    """Writes them."""
    for path, text in files().items():
        write_atomically(path, text.encode())
        print(path.relative_to(PROJECT))


if __name__ == "__main__":
    main()
