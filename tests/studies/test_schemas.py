"""Are schemas and config reference what the settings say, and do all configs name theirs?"""

import json
from pathlib import Path

import jsonschema
import pytest

import studies
from degeneracy.config.reader import DEFAULT_STUDY, parse_config, read_config, read_json, study_name
from degeneracy.runs.work import PROJECT
from studies import schemas

CONFIGS = [PROJECT / "args_ngd_sgd.json", *sorted((PROJECT / "experiments").glob("args_*.json"))]
CONFIGS = [path for path in CONFIGS if not path.name.endswith(".schema.json")]
STUDIES = studies.names()


@pytest.mark.parametrize("path", schemas.files(), ids=lambda path: path.name)
def test_generated_files_are_what_the_settings_say(path: Path):
    written = path.read_text(encoding="utf-8")
    assert written == schemas.files()[path], "write it anew: python -m studies.schemas"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_each_config_fits_its_study_and_names_its_schema(path: Path):
    content = read_json(path)
    study = studies.find(study_name(content))
    assert (study.name == DEFAULT_STUDY) == ("study" not in content)
    named = (path.parent / content["$schema"]).resolve()
    assert named == schemas.schema_path(study).resolve()
    jsonschema.validate(content, json.loads(named.read_text(encoding="utf-8")))
    assert isinstance(read_config(path, study.settings), study.settings)


@pytest.mark.parametrize("name", STUDIES)
def test_the_default_config_spells_out_the_defaults(name: str):
    study = studies.find(name)
    content = read_json(study.config_path)
    expected = study.settings().model_dump()
    if name == "ngd_sgd":  # whose trajectory has 31 checkpoints
        quicker = {"num_chains": 4, "sampler_batch_size": 256, "cooled": False}
        expected["devinterp"] |= quicker
    if name == "gauss_newton":  # whose notebook is to take ten minutes
        expected["training"]["mini"]["epochs"] = 6
        expected["training"]["full"]["checkpoint_every"] = 5
        named = ["block", "min_norm", "sgd", "ngd"]
        expected["degeneracy"] |= {"num_probes": 10, "num_draws": 80, "optimizers": named}
        expected["degeneracy"]["num_chains"] = 3
        expected["degeneracy"]["localizations"] = [1e6, 1e7]
    assert parse_config(content, study.settings).model_dump() == expected


@pytest.mark.parametrize("name", STUDIES)
def test_every_key_has_a_description_and_a_default(name: str):
    schema = json.loads(schemas.schema_path(studies.find(name)).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    for section in schema["$defs"].values():
        assert section["description"]
        assert section["additionalProperties"] is False
        needed = section.get("required", ())
        for key, said in section["properties"].items():
            assert said["description"]
            assert ("default" in said) != (key in needed)


def test_the_reference_names_every_section_of_every_study():
    text = (PROJECT / "docs" / "config.md").read_text(encoding="utf-8")
    for name in STUDIES:
        for section in studies.find(name).settings.model_fields:
            assert f"### {name}: `{section}" in text
