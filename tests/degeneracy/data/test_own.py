"""A data set of the user's own is sound before anything is made, or each problem is named."""

import pytest
import torch

from degeneracy.data.images import DataSplits, TensorData
from degeneracy.data.own import checked_splits, data_digest

CPU = torch.device("cpu")


def pair(size: int = 20, **changed) -> TensorData:
    generator = torch.Generator().manual_seed(size)
    sound = {"inputs": torch.rand(size, 3, generator=generator), "labels": torch.arange(size) % 3}
    return TensorData(**(sound | changed))


def with_value(value: float) -> torch.Tensor:
    inputs = torch.rand(20, 3)
    inputs[7, 1] = value
    return inputs


def checked(train=None, test=None, batch_size=8):
    return checked_splits(DataSplits(train or pair(), test or pair(10)), batch_size, CPU)


def test_sound_data_comes_back_as_it_is():
    data = checked()
    assert isinstance(data.train, TensorData)
    assert torch.equal(data.train.inputs, pair().inputs)
    assert torch.equal(data.test.labels, pair(10).labels)


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (pair(inputs=with_value(float("nan"))), "train: 1 input values that are not finite"),
        (pair(inputs=with_value(float("-inf"))), "train: 1 input values that are not finite"),
        (pair(labels=torch.arange(20) - 1), "train: label -1 given; allowed: classes from 0"),
        (pair(labels=torch.rand(20)), r"labels of type torch.float32 and shape \(20,\) given"),
        (pair(labels=torch.zeros(20, 1).long()), r"allowed: torch.int64 \(n,\)"),
        (pair(labels=torch.arange(19) % 3), "20 inputs and 19 labels given"),
        (pair(7), "7 samples given with data.batch_size 8; allowed there: at least 8"),
        (pair(0), "allowed: at least one sample"),
        (TensorData("images", "labels"), "allowed: .inputs, labels., two tensors"),
    ],
)
def test_what_training_would_stumble_over_is_named(train, said):
    with pytest.raises(ValueError, match=said):
        checked(train)


def test_all_problems_are_listed_at_once():
    with pytest.raises(ValueError, match=r"data\.train: 7.*\n?") as refused:
        checked(pair(7), pair(10, inputs=torch.rand(10, 4)))
    assert "test: inputs of torch.float32 (4,) given; allowed: torch.float32 (3,)" in str(
        refused.value
    )
    with pytest.raises(ValueError, match=r"test: .*at least one sample"):
        checked(test=pair(0))


def test_data_without_a_test_set_is_named():
    with pytest.raises(ValueError, match="test: nothing given"):
        checked_splits(type("Data", (), {"train": pair()})(), 8, CPU)


def test_any_change_of_the_data_changes_its_digest():
    sound = DataSplits(pair(), pair(10))
    inputs, labels = pair().inputs.clone(), pair().labels.clone()
    inputs[3, 2] += 1e-6
    labels[0] = 1
    others = [
        DataSplits(pair(inputs=inputs), pair(10)),
        DataSplits(pair(labels=labels), pair(10)),
        DataSplits(pair(), pair(11)),
        DataSplits(pair(inputs=pair().inputs.double()), pair(10)),
        DataSplits(pair(inputs=pair().inputs.reshape(20, 3, 1)), pair(10)),
    ]
    assert data_digest(sound) == data_digest(DataSplits(pair(), pair(10)))
    assert len({data_digest(data) for data in [sound, *others]}) == 6
