"""Hugging Face `datasets` and Ray Data read tars by their own loaders; nothing of ours is imported.

    python -m tests.foreign_readers datasets|ray TAR ...

Prints a JSON list: for every example its key, the values of its array, and its labels.
"""

import json
import sys
from collections.abc import Callable, Iterable

import numpy as np


def by_datasets(tars: list[str]) -> Iterable[dict]:
    import datasets

    return datasets.load_dataset("webdataset", data_files={"train": tars}, split="train", streaming=True)


def by_ray(tars: list[str]) -> Iterable[dict]:
    import ray

    ray.init(
        num_cpus=1, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    return ray.data.read_webdataset(tars).take_all()


READERS: dict[str, Callable[[list[str]], Iterable[dict]]] = {"datasets": by_datasets, "ray": by_ray}


def main(name: str, tars: list[str]) -> None:
    found = [
        {"key": row["__key__"], "array": np.asarray(row["mel.npy"], np.float16).tolist(), "labels": row["json"]}
        for row in READERS[name](tars)
    ]
    assert not [module for module in sys.modules if module.split(".")[0] in ("shards", "pipelines", "trainers")]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
