"""How many training images may a config ask for?"""

from degeneracy.config.section import Rule, rule
from degeneracy.config.words import shown

TRAIN_SIZES = {"mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000}  # training images


def there_are_so_many(key: str, of: str = "dataset") -> Rule:
    """No more images, under a key, than the data set under the key `of` has."""

    @rule(key, of)
    def problem(count: int, dataset: str) -> str | None:
        most = TRAIN_SIZES[dataset]
        if count > most:
            return f"{count} given with {of} {shown(dataset)}; allowed there: at most {most}"
        return None

    return problem
