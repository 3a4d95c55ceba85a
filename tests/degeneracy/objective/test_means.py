"""A loss with class weights or ignored labels is a mean over samples, whatever the batches."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, nll_loss

from degeneracy.objective.data import as_data
from degeneracy.objective.means import WeightedMean, as_mean, is_by_class

CPU = torch.device("cpu")
CLASSES = 3


def kinds(**options) -> dict:
    """PyTorch's losses in every form that people write them in, with the same options."""
    plain = {k: v for k, v in options.items() if k != "label_smoothing"}
    return {
        "CrossEntropyLoss": nn.CrossEntropyLoss(**options),
        "partial of cross_entropy": partial(cross_entropy, **options),
        "NLLLoss": nn.NLLLoss(**plain),
        "partial of nll_loss": partial(nll_loss, **plain),
    }


NAMES = sorted(kinds())


@st.composite
def problems(draw):
    """(loss, outputs, targets, sizes of batches), with labels that count among them."""
    count, seed = draw(st.integers(1, 30)), draw(st.integers(0, 10**6))
    places = draw(st.sampled_from([(), (4,), (2, 3)]))
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, CLASSES, *places, generator=generator, dtype=torch.float64)
    targets = torch.randint(CLASSES, (count, *places), generator=generator)
    ignored = draw(st.sampled_from([-100, 1, 255]))
    if ignored != 1 and draw(st.booleans()):
        targets[torch.rand(targets.shape, generator=generator) < 0.3] = ignored
    targets.view(-1)[0] = 0  # of which class 0 counts
    options = {"ignore_index": ignored}
    if draw(st.booleans()):
        values = draw(st.lists(st.floats(0, 10), min_size=CLASSES, max_size=CLASSES))
        options["weight"] = torch.tensor([values[0] + 0.1, *values[1:]], dtype=torch.float64)
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.floats(0, 1))
    cuts = draw(st.lists(st.integers(0, count), max_size=5))
    edges = sorted({0, count, *cuts})
    return (
        kinds(**options)[draw(st.sampled_from(NAMES))],
        outputs.log_softmax(1),
        targets,
        [b - a for a, b in pairwise(edges)],
    )


def averaged(mean, outputs: Tensor, targets: Tensor, sizes: list[int]) -> float:
    """The losses of batches, weighted by their sizes."""
    parts = zip(outputs.split(sizes), targets.split(sizes), strict=True)
    losses = [len(y) * float(mean(z, y)) for z, y in parts]
    return sum(losses) / len(outputs)


@given(problems())
@settings(max_examples=300)
def test_for_any_split_the_batches_average_to_pytorchs_loss_on_all_the_data(problem):
    loss_fn, outputs, targets, sizes = problem
    mean = as_mean(loss_fn, as_data((torch.zeros(len(targets)), targets), CPU))
    right = float(loss_fn(outputs, targets))
    assert averaged(mean, outputs, targets, sizes) == pytest.approx(right, rel=1e-12, abs=1e-12)


@given(problems())
@settings(max_examples=100)
def test_the_gradient_of_the_average_is_that_of_pytorchs_loss(problem):
    loss_fn, outputs, targets, sizes = problem
    mean = as_mean(loss_fn, as_data((torch.zeros(len(targets)), targets), CPU))
    leaf = outputs.clone().requires_grad_()
    parts = zip(leaf.split(sizes), targets.split(sizes), strict=True)
    found = sum(mean(z, y) * len(y) for z, y in parts) / len(targets)
    (right,) = torch.autograd.grad(loss_fn(leaf, targets), leaf)
    (slope,) = torch.autograd.grad(found, leaf)
    assert torch.allclose(slope, right, rtol=1e-10, atol=1e-12)


@given(st.permutations(range(12)))
@example(list(range(12)))
def test_the_order_of_samples_does_not_matter(order):
    """Sorted by class, batches hold one class each, and PyTorch's loss of a batch no weights."""
    labels = (torch.arange(12) >= 9).long()[list(order)]
    outputs = torch.linspace(-2, 2, 24, dtype=torch.float64).view(12, 2)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0], dtype=torch.float64))
    mean = as_mean(loss_fn, as_data((torch.zeros(12), labels), CPU))
    right = float(loss_fn(outputs, labels))
    assert averaged(mean, outputs, labels, [3] * 4) == pytest.approx(right, rel=1e-12)


def test_the_weights_are_those_of_all_batches_of_a_stream():
    labels = torch.arange(40) % 3 // 2
    batches = [(torch.zeros(8), part) for part in labels.split(8)]
    data = as_data(batches, CPU, cache_bytes=10)
    mean = as_mean(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])), data)
    assert mean.mean_weight == pytest.approx((27 + 9 * 13) / 40)


def test_a_label_that_is_nowhere_ignored_and_no_weights_leave_the_loss_as_it_is():
    data = as_data((torch.zeros(6), torch.arange(6) % CLASSES), CPU)
    loss_fns = [*kinds().values(), *kinds(ignore_index=7).values(), cross_entropy, nll_loss]
    for loss_fn in loss_fns:
        assert as_mean(loss_fn, data) is loss_fn


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_one_are_pytorchs_plain_loss(name):
    labels = torch.arange(6) % CLASSES
    outputs = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    mean = as_mean(kinds(weight=torch.ones(CLASSES))[name], as_data((torch.zeros(6), labels), CPU))
    assert isinstance(mean, WeightedMean)
    assert torch.allclose(mean(outputs, labels), kinds()[name](outputs, labels))


@pytest.mark.parametrize("loss_fn", [mse_loss, nn.MSELoss(), lambda z, y: (z - y).mean()])
def test_another_loss_is_returned_as_it_is(loss_fn):
    assert as_mean(loss_fn, as_data((torch.zeros(6), torch.zeros(6)), CPU)) is loss_fn
    assert not is_by_class(loss_fn)


def test_probabilities_as_targets_leave_the_loss_as_it_is():
    """PyTorch divides weighted losses of probabilities by the number of samples."""
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    data = as_data((torch.zeros(6), torch.full((6, CLASSES), 1 / 3)), CPU)
    assert as_mean(loss_fn, data) is loss_fn


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"weight": torch.tensor([0.0, 1.0, 1.0])}, [0, 0, 0]),
        ({"ignore_index": 2}, [2, 2, 2]),
        ({"weight": torch.tensor([0.0, 1.0, 1.0])}, [0, -100, 0]),
    ],
)
def test_weights_that_sum_to_nothing_are_refused(name, options, labels):
    data = as_data((torch.zeros(3), torch.tensor(labels)), CPU)
    with pytest.raises(ValueError, match="weights sum to 0 over all labels"):
        as_mean(kinds(**options)[name], data)


def test_sums_are_left_to_the_checks():
    data = as_data((torch.zeros(3), torch.arange(3)), CPU)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]), reduction="sum")
    assert as_mean(loss_fn, data) is loss_fn


def test_halves_of_weights_are_summed_in_full():
    labels = torch.zeros(5000, dtype=torch.long)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0]).half())
    mean = as_mean(loss_fn, as_data((torch.zeros(5000), labels), CPU))
    outputs = torch.randn(5000, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mean(outputs, labels), cross_entropy(outputs, labels))
