"""Are the epochs that are compared those of the rule, as far as the loss is known?"""

from transition_results import TITLE, optimizers_of

from studies.phase_transitions.phases import phases_of, transitions_of


def test_phases_are_where_the_rule_says(results):
    assert phases_of(results, TITLE) == {
        "sgd": {"before": 2, "across": 3, "after": 4, "end": 5},
        "ngd": {"before": 2, "after": 3, "end": 5},  # the drop is one epoch: across is after
    }
    optimizers_of(results)["ngd"]["val_loss"] = [2.3, 2.0, 1.7, 1.4, 1.1, 0.8]
    assert phases_of(results, TITLE)["ngd"] == {"first": 0, "middle": 2, "last": 5}


def test_the_rules_numbers_are_those_of_the_config(results):
    results["config"]["transitions"]["min_plateau"] = 3
    assert transitions_of(results, TITLE) == {"sgd": [], "ngd": []}


def test_a_loss_with_a_hole_is_looked_at_up_to_there(results):
    optimizers_of(results)["sgd"]["val_loss"][4] = None
    assert transitions_of(results, TITLE)["sgd"][0].end == 3


def test_a_diverged_optimizer_has_the_phases_before(results, cut):
    cut(optimizers_of(results)["ngd"], 4)
    assert phases_of(results, TITLE)["ngd"] == {"before": 2, "after": 3}
    cut(optimizers_of(results)["ngd"], 0)
    assert phases_of(results, TITLE)["ngd"] == {}


def test_of_one_epoch_alone_there_is_a_first_phase_only(results, cut):
    cut(optimizers_of(results)["sgd"], 1)
    assert phases_of(results, TITLE)["sgd"] == {"first": 0}


def test_in_a_swap_run_an_optimizer_begins_where_it_took_over(results):
    results["config"]["experiment"] |= {"experiment_type": "swap", "cut_off_epochs": 1}
    optimizers_of(results)["ngd"]["val_loss"] = [None, 2.3, 2.3, 2.3, 0.5, 0.5]
    assert phases_of(results, TITLE)["ngd"] == {"before": 3, "after": 4, "end": 5}
