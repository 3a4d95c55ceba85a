"""Which images does a run of this study see, and are they enough, and few enough?"""

import torch

from degeneracy.config.reader import ConfigError
from degeneracy.curvature.fisher import refuse_more_than_memory
from degeneracy.data.images import DataSplits, TensorData, load_data
from degeneracy.models.networks import num_parameters
from degeneracy.runs.run import model_factories
from degeneracy.runs.work import from_project
from studies.phase_transitions.settings import Settings


def first_images(settings: Settings, device: torch.device) -> DataSplits:
    """The data set's first `num_train_images` and `num_test_images`, on the device.

    Raises:
        data.files.DataError: The data set cannot be had.
    """
    data = settings.data
    whole = load_data(data.dataset, from_project(data.root), device)
    return DataSplits(
        _first(whole.train, data.num_train_images), _first(whole.test, data.num_test_images)
    )


def _first(images: TensorData, count: int | None) -> TensorData:
    return TensorData(images.inputs[:count], images.labels[:count])


def refuse_what_would_fail_late(settings: Settings, images: DataSplits) -> None:
    """Refuses before anything is trained what training or curvature would stumble over.

    Raises:
        config.reader.ConfigError: Too few training images for all classes, or too many in the
            Hessian's batches for the memory that `exact_fisher` may take.
    """
    problems = [_too_few(images), _too_many(settings, images)]
    if found := [problem for problem in problems if problem]:
        raise ConfigError(found, "config")


def _too_few(images: DataSplits) -> str | None:
    num_classes = _num_classes(images)
    if int(images.test.labels.max()) < num_classes:
        return None
    return (
        f"data.num_train_images: the first {len(images.train.labels)} training images are of"
        f" {num_classes} classes at most, the test images of more; allowed: enough of them for all"
    )


def _too_many(settings: Settings, images: DataSplits) -> str | None:
    in_shape, num_classes = tuple(images.train.inputs.shape[1:]), _num_classes(images)
    num_rows = settings.data.num_hessian_batches * settings.data.batch_size * num_classes
    itemsize = 4 if settings.experiment.model_type == "cnn" else 0
    try:
        for factory in model_factories(settings, in_shape, num_classes).values():
            with torch.device("meta"):  # draws no random weights
                size = num_parameters(factory())
            refuse_more_than_memory(num_rows, size, itemsize)
    except ValueError as error:
        return f"data.num_hessian_batches: {settings.data.num_hessian_batches} given; {error}"
    return None


def _num_classes(images: DataSplits) -> int:
    """As many as the largest label of the training images says."""
    return int(images.train.labels.max()) + 1
