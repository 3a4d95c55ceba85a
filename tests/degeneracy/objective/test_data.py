"""Data of every kind become the same samples, in an order that the seed alone decides."""

from collections import Counter, UserDict
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from degeneracy.objective.data import Batch, InMemory, Streamed, as_data

CPU = torch.device("cpu")
N = 37


def pair(count: int = N) -> tuple[Tensor, Tensor]:
    """Sample i holds i, and its label is i mod 3."""
    numbers = torch.arange(float(count))
    return torch.stack([numbers, -numbers], dim=1), torch.arange(count) % 3


def loader(batch_size: int = 5, shuffle: bool = True) -> DataLoader:
    return DataLoader(TensorDataset(*pair()), batch_size, shuffle=shuffle)


def numbers(batches) -> list[int]:
    """Which samples these are, in order."""
    return [int(x) for batch in batches for x in batch.inputs[:, 0]]


def streamed(source=None, **options) -> Streamed:
    found = as_data(loader() if source is None else source, CPU, cache_bytes=100, **options)
    assert isinstance(found, Streamed)
    return found


class Pieces:
    """Batches of uneven sizes, anew at each pass."""

    def __iter__(self):
        inputs, targets = pair()
        return iter(zip(inputs.split([4, 9, 1, 23]), targets.split([4, 9, 1, 23]), strict=True))


# ---- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_of_tensors_is_kept_without_a_copy(kind):
    inputs, targets = pair()
    data = as_data(kind((inputs, targets)), CPU)
    assert isinstance(data, InMemory)
    assert len(data) == N
    assert [leaf.data_ptr() for leaf in data.leaves] == [inputs.data_ptr(), targets.data_ptr()]
    assert as_data(data, CPU) is data


def test_trees_of_tensors_keep_their_shape_in_every_batch():
    inputs, targets = pair()
    tree = {"left": inputs, "more": (inputs[:, 0], [targets])}, {"mask": targets > 0, "y": targets}
    data = as_data(tree, CPU)
    last = list(data.batches(10))[-1]
    assert [batch.size for batch in data.batches(10)] == [10, 10, 10, 7]
    assert torch.equal(last.inputs["more"][0], inputs[30:, 0])
    assert torch.equal(last.inputs["more"][1][0], targets[30:])
    assert torch.equal(last.targets["mask"], targets[30:] > 0)


@pytest.mark.parametrize("name", ["labels", "label", "targets", "target"])
@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_dict_gives_its_labels_as_targets_and_the_rest_as_inputs(name, kind):
    inputs, targets = pair()
    data = as_data(kind({"ids": inputs, name: targets, "mask": targets}), CPU)
    assert list(data.whole.inputs) == ["ids", "mask"]
    assert torch.equal(data.whole.targets, targets)


def test_a_dict_with_two_names_for_labels_takes_the_first_of_the_list():
    inputs, targets = pair()
    data = as_data({"target": inputs, "labels": targets, "x": inputs}, CPU)
    assert torch.equal(data.whole.targets, targets)
    assert list(data.whole.inputs) == ["target", "x"]


class Rows(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        inputs, targets = pair()
        return {"x": inputs[i], "labels": targets[i]}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*(part.split(8) for part in pair()), strict=True))


@pytest.mark.parametrize(
    "source",
    [
        TensorDataset(*pair()),
        loader(shuffle=False),
        list(Pieces()),
        Pieces(),
        Stream(),
        DataLoader(Stream(), batch_size=None),
        (batch for batch in Pieces()),
    ],
    ids=["dataset", "loader", "list", "iterable", "stream", "loader of a stream", "generator"],
)
def test_whatever_batches_came_from_they_hold_the_same_samples(source):
    data = as_data(source, CPU)
    assert isinstance(data, InMemory)
    for found, right in zip(data.leaves, pair(), strict=True):
        assert torch.equal(found, right)


def test_a_dataset_of_dicts_is_collated():
    data = as_data(Rows(), CPU)
    assert torch.equal(data.whole.inputs["x"], pair()[0])
    assert torch.equal(data.whole.targets, pair()[1])


def test_a_list_of_two_batches_is_no_pair():
    inputs, targets = pair()
    data = as_data([(inputs[:20], targets[:20]), (inputs[20:], targets[20:])], CPU)
    assert torch.equal(data.whole.inputs, inputs)
    assert torch.equal(data.whole.targets, targets)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("limit", [10**6, 100])
def test_halves_become_float32_and_other_types_stay(kind, limit):
    inputs, targets = pair()
    halves = [({"x": inputs.to(kind), "y": inputs.double()}, targets)] * 2
    batch = next(as_data(halves, CPU, cache_bytes=limit).batches(50))
    assert batch.inputs["x"].dtype == torch.float32
    assert batch.inputs["y"].dtype == torch.float64
    assert batch.targets.dtype == torch.int64
    assert torch.equal(batch.inputs["x"][:N], inputs)  # small integers are exact in a half


# ---- order and random numbers --------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 100])
def test_a_shuffled_loader_has_the_order_of_the_seed_whatever_came_before(limit):
    def order(seed: int) -> list[int]:
        return numbers(as_data(loader(), CPU, seed=seed, cache_bytes=limit).batches(50))

    torch.manual_seed(1)
    first = order(7)
    torch.manual_seed(2)
    torch.randn(5)
    assert order(7) == first
    assert order(8) != first
    assert sorted(first) == list(range(N))


def test_global_random_numbers_are_left_as_they_were():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for limit in (None, 100):
        data = as_data(loader(), CPU, cache_bytes=limit)
        list(data.batches(7))
        data.some(5, seed=1)
    next(streamed().minibatches(4, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_numbers_drawn_between_two_batches_do_not_change_a_pass():
    """Augmentation draws from the global generator, and so does whoever uses the batches."""

    class Noisy:
        def __iter__(self):
            for _ in range(6):
                yield torch.randn(4, 2), torch.zeros(4)

    data = streamed(Noisy())
    alone = [batch.inputs for batch in data.batches(4)]
    between = []
    for batch in data.batches(4):
        between.append(batch.inputs)
        torch.manual_seed(0)
    assert torch.equal(torch.cat(alone), torch.cat(between))
    assert len(torch.cat(alone).unique()) == 48  # which are not the same numbers again and again


# ---- what does not fit ---------------------------------------------------------------------------


def test_a_generator_that_fits_is_gone_through_once_and_kept():
    asked = []
    data = as_data((asked.append(i) or batch for i, batch in enumerate(Pieces())), CPU)
    assert numbers(data.batches(10)) == numbers(data.batches(10)) == list(range(N))
    assert asked == [0, 1, 2, 3]


def test_a_generator_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"gone through once, and its 592 bytes exceed the 100"):
        as_data((batch for batch in Pieces()), CPU, cache_bytes=100)


def test_an_iterable_fits_to_the_byte():
    used = sum(part.nbytes for part in pair())
    assert isinstance(as_data(Pieces(), CPU, cache_bytes=used), InMemory)
    assert isinstance(as_data(Pieces(), CPU, cache_bytes=used - 1), Streamed)


def test_a_stream_gives_the_same_batches_at_each_pass():
    data = streamed(seed=4)
    assert len(data) == N
    assert numbers(data.batches(3)) == numbers(data.batches(3))
    assert sorted(numbers(data.batches(3))) == list(range(N))
    assert max(batch.size for batch in data.batches(3)) == 3


def test_a_stream_draws_the_samples_that_tensors_of_its_order_draw():
    data = streamed(Pieces())
    kept = as_data(pair(), CPU)
    for count in (1, 10, N, N + 5):
        found, right = data.some(count, seed=5), kept.some(count, seed=5)
        assert len(found) == min(count, N)
        assert set(numbers(found.batches(99))) == set(numbers(right.batches(99)))
        assert len(set(numbers(found.batches(99)))) == min(count, N)


def test_chosen_samples_are_those_of_their_positions_in_ascending_order():
    for data in (streamed(Pieces()), as_data(pair(), CPU)):
        assert numbers([data.chosen([36, 4, 4, 0, 12, 13])]) == [0, 4, 12, 13, 36]


@pytest.mark.parametrize("size", [1, 4, 5, 30, N])
def test_minibatches_of_a_stream_are_whole(size):
    assert {b.size for b in islice(streamed().minibatches(size, seed=0), 40)} == {size}


@pytest.mark.parametrize("size", [1, 4, 9, 36])
def test_no_minibatch_holds_a_sample_twice_where_whole_ones_make_a_pass(size):
    stream = streamed(DataLoader(TensorDataset(*pair(36)), 5, shuffle=True))
    for batch in islice(stream.minibatches(size, seed=0), 80):
        assert len(set(numbers([batch]))) == size


@pytest.mark.parametrize("size", [1, 2])
def test_minibatches_are_drawn_without_replacement_within_a_pass(size):
    """With more samples than a pool holds, no sample comes again before a pass has gone by."""
    stream = streamed(DataLoader(TensorDataset(*pair(400)), 10, shuffle=True))
    count = (400 - 2 * 16 * size - 20) // size  # what the first pass surely gives
    drawn = numbers(islice(stream.minibatches(size, seed=0), count))
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("size", "batch"), [(1, 5), (4, 5), (4, 100), (7, 1), (N, 5)])
def test_every_sample_of_a_stream_comes_equally_often(size, batch):
    """But for the remainder of a pass, N mod m samples of it at random, which is dropped."""
    passes, share = 40, N // size * size / N
    stream = streamed(loader(batch)).minibatches(size, seed=0)
    counted = Counter(numbers(islice(stream, passes * (N // size))))
    deviation = (passes * share * (1 - share)) ** 0.5
    assert set(counted) == set(range(N))
    assert all(abs(times - passes * share) <= 4.5 * deviation for times in counted.values())


@pytest.mark.parametrize(("size", "batch"), [(48, 50), (16, 7)])
def test_samples_at_the_end_of_an_ordered_stream_come_as_often_as_those_at_its_start(size, batch):
    """As of data sorted by class, whose minibatches would else be of another mean."""
    count, passes = 1000, 60
    inputs, targets = pair(count)
    pieces = list(zip(inputs.split(batch), targets.split(batch), strict=True))
    stream = streamed(pieces).minibatches(size, seed=0)
    counted = Counter(numbers(islice(stream, passes * (count // size))))
    share = count // size * size / count
    ends = [sum(counted[i] for i in part) / 200 for part in (range(200), range(800, 1000))]
    deviation = (passes * share * (1 - share) / 200) ** 0.5  # of each, where the drop is random
    assert abs(ends[0] - ends[1]) < 5 * 2**0.5 * deviation, (ends, passes * share)


def test_minibatches_differ_from_seed_to_seed_and_from_pass_to_pass():
    def drawn(seed: int) -> list[list[int]]:
        return [numbers([b]) for b in islice(streamed().minibatches(5, seed), 14)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert drawn(0)[:7] != drawn(0)[7:]


# ---- what is refused -----------------------------------------------------------------------------

INPUTS, TARGETS = pair()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": INPUTS, "y": TARGETS}, "a batch is a dict of x, y; allowed: one with labels"),
        ((INPUTS, INPUTS, TARGETS), "a batch is of"),
        ([(INPUTS, INPUTS, TARGETS)], "a batch is of 3 parts"),
        ([INPUTS, INPUTS, TARGETS], "a batch is of Tensor"),
        ((INPUTS, TARGETS[:5]), "37 inputs and 5 targets"),
        (({"x": INPUTS, "y": INPUTS[:3]}, TARGETS), "3 and 37 inputs and 37 targets"),
        ((INPUTS[:0], TARGETS[:0]), "data is empty"),
        ([], "data is empty"),
        (INPUTS, "two tensors that hold the whole data set"),
        (5, "given: int"),
        ((INPUTS, torch.tensor(1.0)), "targets hold a number"),
        ((INPUTS, [1, 2]), "targets hold int"),
        (({}, TARGETS), "inputs hold nothing"),
    ],
)
def test_what_is_no_data_set_is_refused_with_what_it_is(given, message):
    with pytest.raises(ValueError, match=message):
        as_data(given, CPU)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_place(bad):
    inputs = INPUTS.clone()
    inputs[11, 1] = inputs[20, 0] = bad
    with pytest.raises(ValueError, match=r"inputs hold NaN .* in 2 samples, .* at index 11"):
        as_data((inputs, TARGETS), CPU)


def test_a_value_that_is_not_finite_is_refused_with_the_batch_that_holds_it():
    inputs = INPUTS.clone()
    inputs[11, 1] = float("nan")
    with pytest.raises(ValueError, match=r"batch 1: inputs hold NaN .* the first at index 1"):
        as_data([(part, TARGETS[:10]) for part in inputs.split(10)[:3]], CPU)


def test_large_finite_values_whose_sum_overflows_are_taken():
    assert len(as_data((torch.full((4, 2), 3e38), torch.zeros(4)), CPU)) == 4


def test_ragged_batches_are_refused_with_what_to_do():
    ragged = [(torch.zeros(4, length), torch.zeros(4)) for length in (3, 5)]
    with pytest.raises(ValueError, match=r"differ in more than their number.*padding"):
        as_data(ragged, CPU)


def test_batches_of_other_types_or_names_are_refused():
    other_type = [(torch.zeros(4, 2), torch.zeros(4)), (torch.zeros(4, 2).double(), torch.zeros(4))]
    other_names = [({"x": torch.zeros(4)}, torch.zeros(4)), ({"y": torch.zeros(4)}, torch.zeros(4))]
    for given in (other_type, other_names):
        with pytest.raises(ValueError, match="differ in more than their number"):
            as_data(given, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no second device here")
def test_tensors_elsewhere_are_refused_and_batches_are_moved():
    with pytest.raises(ValueError, match="inputs are on cpu and the model is on cuda"):
        as_data(pair(), torch.device("cuda:0"))
    assert as_data(loader(), torch.device("cuda:0")).device.type == "cuda"


def test_tensors_on_the_meta_device_are_elsewhere():
    with pytest.raises(ValueError, match="inputs are on meta and the model is on cpu"):
        as_data((INPUTS.to("meta"), TARGETS), CPU)


def test_a_batch_is_split_into_pieces_of_all_its_leaves():
    batch = Batch({"x": INPUTS}, TARGETS)
    assert [piece.size for piece in batch.split(15)] == [15, 15, 7]
    assert torch.equal(torch.cat([p.inputs["x"] for p in batch.split(15)]), INPUTS)
