"""The study protocol: what is there is not made again, whenever it stopped."""

import json

import pytest
from pydantic import Field

from degeneracy.config.section import Section
from degeneracy.report.page import Card, Findings
from degeneracy.runs.store import RunStoreError
from degeneracy.runs.work import Part
from degeneracy.study import Study, default_directory, finish, measure, open_work, run_study


class Squares(Section):
    """Which numbers are squared."""

    numbers: list[int] = Field(default_factory=lambda: [1, 2, 3])


class Stopped(Exception):
    """As a kill between two findings."""


def toy(made: list, stop_at: int | None = None) -> Study:
    """A study that squares numbers and notes which it made."""

    def squares(work):
        for number in work.todo(map(str, work.settings.numbers)):
            if int(number) == stop_at:
                raise Stopped
            made.append(number)
            yield number, {"square": int(number) ** 2}

    def total(work):
        found = work.results["parts"]["squares"]
        for key in work.todo(["sum"]):
            made.append(key)
            yield key, {"value": sum(one["square"] for one in found.values())}

    return Study(
        name="toy",
        question="What are the squares?",
        minutes=0,
        title=lambda results: f"Squares of {results['config']['numbers']}",
        settings=Squares,
        parts={"squares": Part(squares), "sum": Part(total)},
        figures=lambda results, traces: [],
        findings=lambda results: Findings([Card("squares", f"{results['parts']}.", drawing="no")]),
    )


def test_every_part_is_done_in_order_and_everything_is_in_the_results(tmp_path):
    made = []
    report = run_study(toy(made), Squares(), tmp_path, "cpu")
    assert made == ["1", "2", "3", "sum"]
    assert report == tmp_path / "report.html"
    assert "Squares of [1, 2, 3]" in report.read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["parts"]["squares"]["3"] == {"square": 9}
    assert results["parts"]["sum"] == {"sum": {"value": 14}}
    assert (results["format"], results["study"], results["status"]) == (2, "toy", "complete")
    timing = results["timing_s"]
    assert timing["total"] == pytest.approx(timing["squares"] + timing["sum"])
    assert results["environment"]["threads"] >= 1
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"study": "toy", "numbers": [1, 2, 3]}


def test_a_part_that_stopped_goes_on_where_it_was(tmp_path):
    made = []
    with pytest.raises(Stopped):
        run_study(toy(made, stop_at=3), Squares(), tmp_path, "cpu")
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "running"
    run_study(toy(made), Squares(), tmp_path, "cpu")
    assert made == ["1", "2", "3", "sum"]


def test_parts_can_be_asked_for_by_name_and_an_unknown_one_is_refused(tmp_path):
    made = []
    work = open_work(toy(made), Squares(), tmp_path, "cpu")
    measure(work, "squares")
    assert made == ["1", "2", "3"]
    assert "not finished" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match="no part 'squars'; allowed: squares, sum"):
        measure(work, "squars")
    measure(work)
    assert made == ["1", "2", "3", "sum"]
    assert "not finished" not in finish(work).read_text()


def test_a_config_may_be_a_file_and_has_a_directory_of_its_own(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"study": "toy", "numbers": [5]}')
    made = []
    run_study(toy(made), path, tmp_path / "run", "cpu")
    assert made == ["5", "sum"]
    study = toy([])
    one, other = (default_directory(study, Squares(numbers=[n])) for n in (1, 2))
    assert one != other
    assert one.parent.parts[-2:] == ("experiments", "toy")


def test_a_directory_of_another_config_is_refused(tmp_path):
    run_study(toy([]), Squares(), tmp_path, "cpu")
    with pytest.raises(RunStoreError, match="another config"):
        open_work(toy([]), Squares(numbers=[4]), tmp_path, "cpu")
