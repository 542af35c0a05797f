"""The data sets and, in this one place, their splits. Pixels lie in [0, 1]; there is no other normalisation."""

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from lossatlas.errors import LossAtlasError
from lossatlas.seeds import seed

NAMES = ("mnist1d", "digits", "mnist", "fashion_mnist", "cifar10", "image_folder")
WITHOUT_FILES = ("mnist1d", "digits")
DIGITS_TEST_ROWS = 360

# Of the raw files as their authors published them, by torchvision's class name.
IDX_SHA256 = {
    "MNIST": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}


@dataclass(frozen=True, eq=False)
class DataSet:
    """Inputs float32, vectors (n, d) or images (n, C, H, W), and labels (n,) int64 in [0, classes), on the CPU."""

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    def flat(self) -> "DataSet":
        """The same rows as vectors (n, d)."""
        return replace(self, train_x=self.train_x.flatten(1), test_x=self.test_x.flatten(1))


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    download: bool = False,
    rows: int | None = None,
    folder: str | None = None,
) -> DataSet:
    """The data set of that name (one of `NAMES`), with its own train and test rows.

    mnist1d (40-vectors, 4000/1000) and digits (1x8x8, 1437/360) come with their packages. The others are read from
    data_dir and fetched only if `download`. image_folder reads data_dir/folder/{train,test}/CLASS/* and is named by
    its folder. rows: keep that many training rows, a fixed mixed choice in which a smaller one is part of a larger.

    Raises LossAtlasError for a name, package or file that is missing, and for a file that is damaged.
    """
    if name not in NAMES:
        raise LossAtlasError(f"data set {name!r} is unknown; use one of {', '.join(NAMES)}")
    if name not in WITHOUT_FILES and data_dir is None:
        raise LossAtlasError(f"data set {name} needs data_dir: set it to the folder that has its files")
    match name:
        case "mnist1d":
            data = mnist1d()
        case "digits":
            data = _digits()
        case "mnist":
            data = _idx("MNIST", name, Path(data_dir), download)
        case "fashion_mnist":
            data = _idx("FashionMNIST", name, Path(data_dir), download)
        case "cifar10":
            data = _cifar10(Path(data_dir), download)
        case "image_folder":
            data = _image_folder(Path(data_dir), folder)
    return data if rows is None else _subset(data, rows)


def validation_split(data: DataSet, rows: int) -> DataSet:
    """The training rows in two: `rows` of them, a fixed mixed choice, take the place of the test rows.

    What is tuned on the result has not seen the test rows of `data`.
    """
    total = len(data.train_y)
    if not 0 < rows < total:
        raise LossAtlasError(f"{rows} validation rows of {data.name}: choose between 1 and {total - 1}")
    order = mixed_order(f"{data.name}/validation", total)
    held_out, kept = order[:rows], order[rows:]
    return replace(
        data,
        train_x=data.train_x[kept],
        train_y=data.train_y[kept],
        test_x=data.train_x[held_out],
        test_y=data.train_y[held_out],
    )


def gaussian_classes(
    generator: torch.Generator, rows: int = 2048, test_rows: int = 512, classes: int = 10, dim: int = 64
) -> DataSet:
    """x = N(0, 1) + 1.5 centre[y] / dim^¼ with centres N(0, 1) and labels drawn evenly; new for each generator."""
    centres = torch.randn(classes, dim, generator=generator)
    y = torch.randint(classes, (rows + test_rows,), generator=generator)
    x = torch.randn(rows + test_rows, dim, generator=generator) + 1.5 * centres[y] / dim**0.25
    return DataSet("gaussian_classes", x[:rows], y[:rows], x[rows:], y[rows:], classes)


def mixed_order(name: str, total: int) -> Tensor:
    """A fixed order of `total` rows that no library's random stream can change: by the hash of (name, row)."""
    return torch.tensor(sorted(range(total), key=lambda row: seed("data", name, row)))


def _subset(data: DataSet, rows: int) -> DataSet:
    total = len(data.train_y)
    if not 0 < rows <= total:
        raise LossAtlasError(f"{rows} rows of {data.name}: choose between 1 and {total}")
    kept = mixed_order(data.name, total)[:rows]
    return replace(data, train_x=data.train_x[kept], train_y=data.train_y[kept])


# --- sets that come with their packages -----------------------------------------------------------------------------


def mnist1d(rows: int = 5000) -> DataSet:
    """The rows that the authors' generator makes with its default arguments and seed 42, bit for bit.

    rows: how many in all, the published set by default; four fifths of them are for training.

    Constants are read from the package. The algorithm (Greydanus 2020, arXiv 2011.14439: pad, dilate, scale and
    shift a template, fill the padding with correlated noise, add noise, shear, subsample) is run here for all rows at
    once, in a tenth of the time; only the draws from numpy's legacy generator must come one row after another.
    """
    try:
        from mnist1d.data import get_dataset_args, get_templates
    except ImportError as error:
        raise LossAtlasError("data set mnist1d needs its package: pip install mnist1d") from error
    from scipy.ndimage import gaussian_filter1d

    settings, templates = get_dataset_args(), get_templates()
    classes = len(templates["y"])
    each = rows // classes
    least, most = settings.padding
    width = settings.template_len + most
    fine, coarse = np.linspace(0, 1, width), np.linspace(0, 1, settings.final_seq_length)
    signals, correlated, independent = (np.empty((each * classes, width)) for _ in range(3))
    slopes = np.empty((each * classes, 1))
    draw = np.random.RandomState(settings.seed)
    for row in range(each * classes):
        padding = np.zeros(least + int(draw.rand() * (most - least + 1)))
        padded = np.concatenate([templates["x"][row // each] + 1e-8, padding])
        dilated = np.interp(fine, np.linspace(0, 1, len(padded)), padded)
        scaled = dilated * (1 + settings.scale_coeff * (draw.rand() - 0.5))
        signals[row] = np.roll(scaled, draw.choice(settings.max_translation))
        correlated[row], independent[row] = draw.randn(width), draw.randn(width)
        slopes[row] = draw.rand()
    noise = gaussian_filter1d(settings.corr_noise_scale * correlated, 2)
    signals = np.where(signals != 0, signals, noise) + settings.iid_noise_scale * independent
    signals -= settings.shear_scale * (slopes - 0.5) * np.linspace(-0.5, 0.5, width)
    x = np.stack([np.interp(coarse, fine, signal) for signal in signals])
    order = draw.permutation(len(x))
    x, y = x[order], np.repeat(templates["y"], each)[order]
    x = torch.from_numpy((x - x.mean()) / x.std()).float()
    y = torch.from_numpy(y).long()
    train = int(len(x) * settings.train_split)
    return DataSet("mnist1d", x[:train], y[:train], x[train:], y[train:], classes)


def _digits() -> DataSet:
    package = find_spec("sklearn")
    if package is None:
        raise LossAtlasError("data set digits needs its package: pip install scikit-learn")
    # read where the package keeps them: to import it takes longer than to train a small ensemble
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not path.exists():
        raise LossAtlasError(f"{path} is missing: install scikit-learn again, or another version of it")
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    x, y = table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1].long()
    order = mixed_order("digits/test", len(y))
    test, train = order[:DIGITS_TEST_ROWS], order[DIGITS_TEST_ROWS:]
    return DataSet("digits", x[train], y[train], x[test], y[test], 10)


# --- sets that torchvision reads --------------------------------------------------------------------------------------


def _torchvision_datasets() -> ModuleType:
    try:
        import torchvision.datasets
    except ImportError as error:
        raise LossAtlasError("image data sets need torchvision, from the same place as torch") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        raise LossAtlasError(
            "torch and torchvision do not fit each other: install both from the same place, in one command"
        ) from error
    return torchvision.datasets


def _ensure(kind: type, data_dir: Path, files: dict[Path, str], algorithm: str, download: bool) -> None:
    """That the files are those their authors published; torchvision fetches (and checks) what is missing."""
    if download and not all(path.is_file() for path in files):
        try:
            kind(data_dir, download=True)
        except (RuntimeError, OSError) as error:
            raise LossAtlasError(f"could not download {kind.__name__} to {data_dir}: {error}") from error
    for path, digest in files.items():
        if not path.is_file():
            raise LossAtlasError(f"{path} is missing: set `download: true`, or put the file there")
        if hashlib.new(algorithm, path.read_bytes()).hexdigest() != digest:
            raise LossAtlasError(
                f"{path} is damaged ({algorithm} differs from the original's): delete it, then set "
                "`download: true` or put the original there"
            )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One job at a time in the folder: of those that begin together, one fetches what the others then find whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".download.lock", "a")  # noqa: SIM115 - open handle and lock are the same thing
    except OSError:  # a folder that nobody can write to
        yield
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _idx(class_name: str, name: str, data_dir: Path, download: bool) -> DataSet:
    """MNIST and its kin, from the four raw files in data_dir/class_name/raw."""
    datasets = _torchvision_datasets()
    files = {data_dir / class_name / "raw" / f: digest for f, digest in IDX_SHA256[class_name].items()}
    with _alone(data_dir) if download else nullcontext():
        _ensure(getattr(datasets, class_name), data_dir, files, "sha256", download)
    train_x, train_y, test_x, test_y = (datasets.mnist.read_sn3_pascalvincent_tensor(str(path)) for path in files)
    return DataSet(name, _pixels(train_x[:, None]), train_y.long(), _pixels(test_x[:, None]), test_y.long(), 10)


def _cifar10(data_dir: Path, download: bool) -> DataSet:
    kind = _torchvision_datasets().CIFAR10
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    with _alone(data_dir) if download else nullcontext():
        _ensure(kind, data_dir, {data_dir / kind.base_folder / f: md5 for f, md5 in listed}, "md5", download)
    parts = []
    for train in (True, False):
        part = kind(data_dir, train=train)
        parts += [_pixels(torch.from_numpy(part.data).permute(0, 3, 1, 2)), torch.tensor(part.targets)]
    return DataSet("cifar10", *parts, classes=10)


def _image_folder(data_dir: Path, folder: str | None) -> DataSet:
    """A user's own RGB images of one size, decoded into memory, in a mixed order (on disk they lie class by class)."""
    if folder is None:
        raise LossAtlasError("data set image_folder needs `folder`: the name of a folder in data_dir")
    datasets = _torchvision_datasets()
    parts, class_names = [], []
    for split in ("train", "test"):
        path = data_dir / folder / split
        try:
            listed = datasets.ImageFolder(str(path))
        except FileNotFoundError as error:
            raise LossAtlasError(f"{path} must have a folder of *.png or *.jpg images for each class") from error
        order = mixed_order(f"{folder}/{split}", len(listed.samples)).tolist()
        images = _decode([listed.samples[row][0] for row in order], listed.loader)
        parts += [_pixels(images.permute(0, 3, 1, 2)), torch.tensor([listed.targets[row] for row in order])]
        class_names.append(listed.classes)
    if class_names[0] != class_names[1]:
        raise LossAtlasError(f"{data_dir / folder}: train and test must have folders for the same classes")
    return DataSet(folder, *parts, classes=len(class_names[0]))


def _decode(paths: list[str], loader) -> Tensor:
    """Images (n, H, W, 3) uint8."""
    images: Tensor | None = None
    for row, path in enumerate(paths):
        try:
            image = torch.from_numpy(np.array(loader(path)))
        except (OSError, SyntaxError, ValueError) as error:  # what PIL raises depends on the format
            raise LossAtlasError(f"{path} cannot be read as an image: replace or delete it") from error
        if images is None:
            images = image.new_empty(len(paths), *image.shape)
        if image.shape != images.shape[1:]:
            raise LossAtlasError(f"{path} has another size than {paths[0]}: all images must have one size")
        images[row] = image
    return images


def _pixels(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [0, 1]."""
    return images.contiguous().float().div_(255)
