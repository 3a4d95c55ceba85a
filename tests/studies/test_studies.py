"""A study is a folder that declares one; any other name is refused with the one that was meant."""

import sys

import pytest

import studies
from degeneracy.config.reader import ConfigError


def test_a_folder_without_a_declaration_is_no_study(tmp_path, monkeypatch):
    (tmp_path / "undeclared").mkdir()
    (tmp_path / "undeclared" / "__init__.py").write_text('"""Does it declare a study? No."""\n')
    before = studies.names()
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(tmp_path)])
    assert studies.names() == before
    with pytest.raises(ConfigError, match="study: 'undeclared' given; allowed: atlas, "):
        studies.find("undeclared")
    assert not hasattr(sys.modules["studies.undeclared"], "STUDY")
    monkeypatch.delitem(sys.modules, "studies.undeclared")


def test_a_name_that_is_almost_one_of_a_study_is_told_which():
    with pytest.raises(ConfigError, match=r"did you mean phase_transitions\?"):
        studies.find("phase_transition")
