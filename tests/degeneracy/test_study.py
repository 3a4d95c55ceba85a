"""The study protocol: what is there is not made again, whenever it stopped."""

import json

import pytest
from pydantic import Field

from degeneracy.config.section import Section
from degeneracy.report.page import Card, Findings
from degeneracy.runs.store import RunStoreError
from degeneracy.runs.work import Part
from degeneracy.study import (
    PartError,
    Stopped,
    Study,
    default_directory,
    finish,
    measure,
    open_work,
    run_study,
)


class Squares(Section):
    """Which numbers are squared."""

    numbers: list[int] = Field(default_factory=lambda: [1, 2, 3])


def toy(made: list, stop_at: int | None = None, by: BaseException | None = None) -> Study:
    """A study that squares numbers, cubes one, and notes which it made; before the number `stop_at`
    comes what it is stopped `by`.
    """
    by = by or ZeroDivisionError("no such square")

    def squares(work):
        for number in work.todo(map(str, work.settings.numbers)):
            if int(number) == stop_at:
                raise by
            made.append(number)
            yield number, {"square": int(number) ** 2}

    def total(work):
        found = work.results["parts"]["squares"]
        for key in work.todo(["sum"]):
            made.append(key)
            yield key, {"value": sum(one["square"] for one in found.values())}

    def cube(work):
        for key in work.todo(["cube"]):
            made.append(key)
            yield key, {"value": 27}

    return Study(
        name="toy",
        question="What are the squares?",
        minutes=0,
        title=lambda results: f"Squares of {results['config']['numbers']}",
        settings=Squares,
        parts={"squares": Part(squares), "sum": Part(total), "cube": Part(cube, needs=())},
        figures=lambda results, traces: [],
        findings=lambda results: Findings([Card("squares", f"{results['parts']}.", drawing="no")]),
    )


def test_every_part_is_done_in_order_and_everything_is_in_the_results(tmp_path):
    made = []
    report = run_study(toy(made), Squares(), tmp_path, "cpu")
    assert made == ["1", "2", "3", "sum", "cube"]
    assert report == tmp_path / "report.html"
    assert "Squares of [1, 2, 3]" in report.read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["parts"]["squares"]["3"] == {"square": 9}
    assert results["parts"]["sum"] == {"sum": {"value": 14}}
    assert (results["format"], results["study"], results["status"]) == (2, "toy", "complete")
    timing = results["timing_s"]
    assert timing["total"] == pytest.approx(timing["squares"] + timing["sum"] + timing["cube"])
    assert results["environment"]["threads"] >= 1
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"study": "toy", "numbers": [1, 2, 3]}


def test_a_part_that_stopped_goes_on_where_it_was(tmp_path):
    made = []
    with pytest.raises(Stopped, match="stopped by SIGTERM; what was found is in"):
        run_study(toy(made, 3, KeyboardInterrupt("SIGTERM")), Squares(), tmp_path, "cpu")
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "running"
    run_study(toy(made), Squares(), tmp_path, "cpu")
    assert made == ["1", "2", "3", "sum", "cube"]


def test_parts_can_be_asked_for_by_name_and_an_unknown_one_is_refused(tmp_path):
    made = []
    work = open_work(toy(made), Squares(), tmp_path, "cpu")
    measure(work, "squares")
    assert made == ["1", "2", "3"]
    assert "not finished" in (tmp_path / "report.html").read_text()
    with pytest.raises(ValueError, match="no part 'squars'; allowed: squares, sum, cube"):
        measure(work, "squars")
    measure(work)
    assert made == ["1", "2", "3", "sum", "cube"]
    assert "not finished" not in finish(work).read_text()


def test_a_config_may_be_a_file_and_has_a_directory_of_its_own(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"study": "toy", "numbers": [5]}')
    made = []
    run_study(toy(made), path, tmp_path / "run", "cpu")
    assert made == ["5", "sum", "cube"]
    study = toy([])
    one, other = (default_directory(study, Squares(numbers=[n])) for n in (1, 2))
    assert one != other
    assert one.parent.parts[-2:] == ("experiments", "toy")


def test_a_directory_of_another_config_is_refused(tmp_path):
    run_study(toy([]), Squares(), tmp_path, "cpu")
    with pytest.raises(RunStoreError, match="another config"):
        open_work(toy([]), Squares(numbers=[4]), tmp_path, "cpu")


# ---- a part that fails ---------------------------------------------------------------------------


def test_a_failure_hides_no_part_that_does_not_need_it(tmp_path):
    made = []
    failing = toy(made, stop_at=3)
    said = (
        r"the part squares failed, ZeroDivisionError: no such square \(test_study\.py, line \d+\)"
    )
    with pytest.raises(PartError, match=said) as refused:
        run_study(failing, Squares(), tmp_path, "cpu")
    assert isinstance(refused.value.__cause__, ZeroDivisionError)
    assert made == ["1", "2", "cube"]  # the sum of two squares would have been another sum
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["status"] == "running"
    assert "no such square" in results["failures"]["squares"]
    page = (tmp_path / "report.html").read_text()
    assert "<strong>squares failed</strong>" in page
    assert "no such square" in page


def test_a_failed_part_is_tried_again_and_then_nothing_tells_of_it(tmp_path):
    made = []
    with pytest.raises(PartError):
        run_study(toy(made, stop_at=3), Squares(), tmp_path / "run", "cpu")
    run_study(toy(made), Squares(), tmp_path / "run", "cpu")
    run_study(toy([]), Squares(), tmp_path / "whole", "cpu")
    assert made == ["1", "2", "cube", "3", "sum"]
    one, other = (json.loads((tmp_path / d / "results.json").read_text()) for d in ("run", "whole"))
    for results in (one, other):
        for key in ("timing_s", "environment", "sha256"):
            del results[key]
    assert one == other
    assert "failed</strong>" not in (tmp_path / "run" / "report.html").read_text()


def test_of_a_single_part_its_own_error_is_raised_and_the_study_is_not_complete(tmp_path):
    work = open_work(toy([], stop_at=1), Squares(), tmp_path, "cpu")
    with pytest.raises(ZeroDivisionError):
        measure(work, "squares")
    finish(work)
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "running"


def test_a_notebook_shows_a_stop_as_a_sentence():
    assert Stopped("stopped; go on")._render_traceback_() == ["stopped; go on"]


# ---- what was found before is believed only where it fits ----------------------------------------


def unsealed(directory, change) -> None:
    """Results changed by a function, and without their digest."""
    path = directory / "results.json"
    results = json.loads(path.read_text())
    del results["sha256"]
    change(results)
    path.write_text(json.dumps(results))


CHANGES = {
    "no parts": lambda results: results.pop("parts"),
    "parts of another type": lambda results: results.update(parts=[1]),
    "a part of another type": lambda results: results["parts"].update(squares=7),
    "a finding of another type": lambda results: results["parts"]["squares"].update({"1": 1.0}),
    "not finite": lambda results: results["parts"]["sum"]["sum"].update(value=float("nan")),
    "another config": lambda results: results.update(config="none"),
    "no config": lambda results: results.pop("config"),
    "no environment": lambda results: results.pop("environment"),
    "a time that is none": lambda results: results["timing_s"].update(total="long"),
    "an unknown status": lambda results: results.update(status=3),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_results_that_do_not_fit_are_made_again(tmp_path, how):
    run_study(toy([]), Squares(), tmp_path, "cpu")
    (tmp_path / "results.previous.json").unlink()
    unsealed(tmp_path, CHANGES[how])
    made = []
    run_study(toy(made), Squares(), tmp_path, "cpu")
    assert made == ["1", "2", "3", "sum", "cube"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["parts"]["sum"] == {"sum": {"value": 14}}
    assert (tmp_path / "results.json.corrupt").exists()


@pytest.mark.filterwarnings("ignore:.*has no sha256")
def test_what_fails_on_results_without_a_digest_is_their_fault(tmp_path):
    run_study(toy([]), Squares(), tmp_path, "cpu")

    def without_square(results):
        results["parts"]["squares"]["2"] = {}
        del results["parts"]["sum"]

    unsealed(tmp_path, without_square)
    with pytest.raises(RunStoreError, match=r"no digest.*KeyError: 'square'.*remove it: what the"):
        run_study(toy([]), Squares(), tmp_path, "cpu")


def test_nesting_without_end_is_no_traceback(tmp_path):
    run_study(toy([]), Squares(), tmp_path, "cpu")
    (tmp_path / "results.json").write_text("[" * 200_000)
    made = []
    with pytest.warns(UserWarning, match=r"nested too deep.*goes on from results\.previous\.json"):
        run_study(toy(made), Squares(), tmp_path, "cpu")
    assert made == []
