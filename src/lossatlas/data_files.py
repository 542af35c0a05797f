"""Whether the files of the data sets are there, asked once before the first job starts (so no torch here)."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lossatlas.errors import LossAtlasError

FOLDERS = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}  # torchvision's


def check(jobs: Iterable[Any], config: Mapping[str, Any]) -> None:
    """Raises `LossAtlasError` with every folder in data_dir that the jobs of Snakemake will read and that is not there.

    Whether the files in them are whole is found when they are read. Measurements read tables only.
    """
    reading = [job for job in jobs if not job.rule.name.endswith("_measurements")]
    folders = sorted({folder for job in reading for folder in _folders(dict(job.params.items()))})
    paths = [Path(config["data_dir"], folder) for folder in folders]
    missing = [
        str(path)
        for folder, path in zip(folders, paths, strict=True)
        if not path.is_dir() and not (config["download"] and folder in FOLDERS.values())
    ]
    if missing:
        raise LossAtlasError(
            f"data is missing: {', '.join(missing)}; set data_dir to the folder that has it "
            "(--config data_dir=DIR), or download: true for the public sets"
        )


def _folders(parameters: Any) -> Iterator[str]:
    """The folders of the data sets that nested parameters name."""
    if isinstance(parameters, Mapping):
        name = parameters.get("data")
        if name == "image_folder":
            yield f"{parameters['folder']}/train"
        elif isinstance(name, str) and name in FOLDERS:
            yield FOLDERS[name]
    if isinstance(parameters, Mapping | list | tuple):
        for value in parameters.values() if isinstance(parameters, Mapping) else parameters:
            yield from _folders(value)
