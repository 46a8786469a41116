"""Labels as classes: what pairs, balance and mixtures group rows by."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from shards.problem import UsageProblem

Labels = Callable[[str], np.ndarray]
"""A label's name -> its value in every row of a dataset."""

NO_CLASS = -1


def classes_of(name: str, labels: Labels, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The class of each row, numbered from 0 in the order of the values; -1 for a row without the label.

    Raises UsageProblem when a row has a list of values.
    """
    values = labels(name)[rows]
    if values.dtype != object:
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    is_there = np.array([value is not None for value in values.tolist()], bool)
    if any(isinstance(value, list) for value in values[is_there].tolist()):
        raise UsageProblem(
            f"The label '{name}' is a list in each example, so that no example is of one class alone and none can be "
            "chosen by it. Name a label with one value."
        )
    classes = np.full(len(rows), NO_CLASS)
    classes[is_there] = np.unique(values[is_there], return_inverse=True)[1]
    return classes
