"""A section of a study as a study of its own: how tests measure one without the others.

study, config = alone("energy", SECTION, Settings(num_seeds=2))
run_study(study, config, out, "cpu")
"""

from pydantic import create_model

from degeneracy.config.section import Section
from degeneracy.report.page import Findings
from degeneracy.report.page import Section as Figures
from degeneracy.runs.work import Part
from degeneracy.study import Study


def alone(name, section, settings):
    """(the study, its config): the section called `name`, with these settings."""
    config = create_model("Config", __base__=Section, **{name: (type(settings), settings)})

    def part(results):
        return results["parts"].get(name, {})

    study = Study(
        name=f"{name}_alone",
        question="Does the section stand on its own?",
        minutes=0.1,
        title=name,
        settings=config,
        parts={name: Part(section.measure)},
        figures=lambda results, traces: [Figures("", section.figures(part(results)))],
        findings=lambda results: Findings(
            [section.card(part(results))], section.tables(part(results))
        ),
    )
    return study, config()
