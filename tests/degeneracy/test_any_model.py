"""Of every function and every module: is it the right value, or a refusal that names the cause?"""

import re
from dataclasses import replace

import pytest
from cells import FUNCTIONS, PAGE, cell, may_say
from torch import nn
from zoo import ANIMALS, ZOO

PAGES_ROWS = {
    line.split("|")[1].strip(): [part.strip() for part in line.split("|")[2:-1]]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and ": " in line.split("|")[1]
}


SLOW = {"gpt", "transformer encoder layer", "gru", "rnn of two layers", "sdpa causal", "pruned"}
CASES = [
    pytest.param(animal, id=animal.name, marks=[pytest.mark.slow] if animal.name in SLOW else [])
    for animal in ZOO
]  # of the slow ones another of their kind stays


@pytest.mark.parametrize("animal", CASES)
def test_every_cell_is_a_right_value_or_a_refusal_that_names_the_cause(animal):
    shown = PAGES_ROWS[f"{animal.group}: {animal.name}"]
    for name, on_page in zip(FUNCTIONS, shown, strict=True):
        found = cell(animal, name)
        if found.right:
            assert animal.refused is None, f"{name} gave a value where there is none"
        else:
            assert may_say(animal, name, found.said), f"{name}: {found.said}"
        assert found.right is (on_page == "✓"), f"docs/any-model.md is of another day: {name}"


def test_the_page_has_a_row_for_every_module_and_a_sentence_for_every_refusal():
    page = PAGE.read_text()
    assert len(PAGES_ROWS) == len(ZOO) >= 30
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", page)}
    assert numbers == set(range(1, len(numbers) + 1))
    for number in numbers:
        assert f"\n{number}. " in page


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "trace"])
def test_a_wrong_value_is_seen(name):
    """The table can fail: a module whose reference has another activation."""
    animal = ANIMALS["ffnn tanh"]

    def another():
        model = animal.build()
        model[1] = nn.ReLU()
        return model

    with pytest.raises(AssertionError, match="apart"):
        FUNCTIONS[name](replace(animal, twin=another))
