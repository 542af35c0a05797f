import hashlib
import os
import pickle
import random
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from lossatlas import data
from lossatlas.errors import LossAtlasError

CLASS_OF = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def mnist1d():
    return data.load("mnist1d")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


# --- sets that come with their packages -----------------------------------------------------------------------------


def test_mnist1d_is_the_authors_default_set(mnist1d):
    assert mnist1d.train_x.shape == (4000, 40)
    assert mnist1d.test_x.shape == (1000, 40)
    assert digest(mnist1d.train_y) == "d97dc7aecec8ad6b"  # seed 42, 80 % train
    assert digest(mnist1d.test_y) == "8de99be3ff9dab15"
    everything = torch.cat([mnist1d.train_x, mnist1d.test_x]).double()
    # the authors' generator standardises the whole set; float32 rounds each of 200,000 numbers by 1e-7 at most
    assert abs(everything.mean()) < 1e-6
    assert abs(everything.std(correction=0) - 1) < 1e-6


def test_mnist1d_is_bit_for_bit_what_the_package_generates(mnist1d):
    from mnist1d.data import make_dataset

    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    theirs = make_dataset()
    random.setstate(state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    assert np.array_equal(mnist1d.train_x, theirs["x"].astype(np.float32))
    assert np.array_equal(mnist1d.test_x, theirs["x_test"].astype(np.float32))
    assert np.array_equal(mnist1d.train_y, theirs["y"])
    assert np.array_equal(mnist1d.test_y, theirs["y_test"])


@pytest.mark.parametrize("name", data.WITHOUT_FILES)
def test_loading_neither_uses_nor_moves_the_global_generators(name, request):
    def seed_all():
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)

    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    first = request.getfixturevalue(name)
    seed_all()
    expected = draws()
    seed_all()
    again = data.load(name)
    assert draws() == expected
    assert torch.equal(again.train_x, first.train_x)
    assert torch.equal(again.test_y, first.test_y)


def test_digits_are_scikit_learns_rows_each_once_in_a_frozen_split(digits):
    from sklearn.datasets import load_digits

    assert digits.train_x.shape == (1437, 1, 8, 8)
    assert digits.test_x.shape == (360, 1, 8, 8)
    assert digits.flat().train_x.shape == (1437, 64)
    pixels, labels = load_digits(return_X_y=True)
    ours = torch.cat([digits.flat().train_x, digits.flat().test_x]) * 16
    ours = np.column_stack([ours.numpy(), torch.cat([digits.train_y, digits.test_y]).numpy()])
    theirs = np.column_stack([pixels, labels])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))
    assert digest(digits.train_y) == "4176a440c1a195cd"
    assert digest(digits.test_y) == "1fec9c36672f7e3a"


@pytest.mark.parametrize(("name", "package"), [("mnist1d", "mnist1d"), ("digits", "scikit-learn")])
def test_a_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    monkeypatch.setattr(data, "find_spec", lambda _: None)
    with pytest.raises(LossAtlasError, match=f"{name} needs its package: pip install {package}"):
        data.load(name)


# --- splits ---------------------------------------------------------------------------------------------------------


def test_mixed_order_is_a_frozen_permutation_that_differs_by_name():
    assert data.mixed_order("a", 8).tolist() == [5, 2, 4, 7, 0, 3, 6, 1]
    assert sorted(data.mixed_order("b", 1000).tolist()) == list(range(1000))
    assert not torch.equal(data.mixed_order("a", 1000), data.mixed_order("b", 1000))


def test_a_smaller_choice_of_rows_is_part_of_a_larger(digits):
    small, large = (data.load("digits", rows=rows) for rows in (100, 300))
    assert torch.equal(small.train_x, large.train_x[:100])
    assert torch.equal(small.test_x, digits.test_x)
    with pytest.raises(LossAtlasError, match="1438 rows of digits: choose between 1 and 1437"):
        data.load("digits", rows=1438)


def test_validation_rows_and_kept_rows_share_out_the_training_rows():
    numbers = torch.arange(50)
    whole = data.DataSet("numbers", numbers[:, None].float(), numbers, torch.empty(0, 1), numbers[:0], 50)
    parts = data.validation_split(whole, 10)
    assert len(parts.test_y) == 10
    assert sorted(torch.cat([parts.train_y, parts.test_y]).tolist()) == numbers.tolist()
    assert torch.equal(parts.test_x[:, 0].long(), parts.test_y)
    assert parts.test_y.tolist() == [6, 26, 37, 45, 38, 14, 49, 41, 43, 15]
    with pytest.raises(LossAtlasError, match="choose between 1 and 49"):
        data.validation_split(whole, 50)


# --- files ----------------------------------------------------------------------------------------------------------


def write_idx(path, values: np.ndarray) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture(params=CLASS_OF)
def tiny_idx(request, tmp_path, monkeypatch):
    """A data set of seven training and three test images in raw files, with the checksums of these files."""
    class_name = CLASS_OF[request.param]
    raw = tmp_path / class_name / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": generator.integers(256, size=(7, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(7),
        "t10k-images-idx3-ubyte": generator.integers(256, size=(3, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(3)[::-1],
    }
    for file, values in arrays.items():
        write_idx(raw / file, values)
        checksum = hashlib.sha256((raw / file).read_bytes()).hexdigest()
        monkeypatch.setitem(data.IDX_SHA256[class_name], file, checksum)
    return request.param, tmp_path, raw, arrays


def test_idx_files_are_read_as_pixels_between_0_and_1(tiny_idx):
    name, data_dir, _, arrays = tiny_idx
    loaded = data.load(name, data_dir)
    assert loaded.name == name
    assert loaded.train_x.shape == (7, 1, 28, 28)
    assert loaded.train_x.dtype == torch.float32
    assert np.array_equal((loaded.train_x[:, 0] * 255).round().numpy(), arrays["train-images-idx3-ubyte"])
    assert np.array_equal((loaded.test_x[:, 0] * 255).round().numpy(), arrays["t10k-images-idx3-ubyte"])
    assert loaded.train_y.tolist() == list(range(7))
    assert loaded.test_y.tolist() == [2, 1, 0]


@pytest.mark.parametrize("file", data.IDX_SHA256["MNIST"])
def test_a_missing_file_is_named_with_the_way_to_get_it(tiny_idx, file):
    name, data_dir, raw, _ = tiny_idx
    (raw / file).unlink()
    with pytest.raises(LossAtlasError, match=f"{raw / file} is missing: set `download: true`, or put"):
        data.load(name, data_dir)


def truncate(content: bytes) -> bytes:
    return content[:-1]


def change_one_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("damage", [truncate, change_one_byte])
@pytest.mark.parametrize("file", data.IDX_SHA256["MNIST"])
def test_a_damaged_file_is_named_with_the_way_to_replace_it(tiny_idx, file, damage, download):
    name, data_dir, raw, _ = tiny_idx
    (raw / file).write_bytes(damage((raw / file).read_bytes()))
    with pytest.raises(LossAtlasError, match=rf"{raw / file} is damaged .*: delete it, then set"):
        data.load(name, data_dir, download=download)


def test_a_download_that_fails_is_one_sentence(tiny_idx, monkeypatch):
    import torchvision.datasets.mnist

    def no_network(*args, **kwargs):
        raise URLError("no route")

    name, data_dir, raw, _ = tiny_idx
    next(raw.iterdir()).unlink()
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", no_network)
    with pytest.raises(LossAtlasError, match=f"could not download {CLASS_OF[name]} to {data_dir}"):
        data.load(name, data_dir, download=True)


def test_jobs_that_begin_together_fetch_a_set_once_and_read_it_whole(tiny_idx, monkeypatch):
    import torchvision.datasets

    name, data_dir, raw, _ = tiny_idx
    content = {path: path.read_bytes() for path in raw.iterdir()}
    fetched = []

    def slow(folder, download):
        fetched.append(folder)
        for path, whole in content.items():
            path.write_bytes(whole[:9])
        time.sleep(0.1)  # the others look now
        for path, whole in content.items():
            path.write_bytes(whole)

    for path in content:
        path.unlink()
    monkeypatch.setattr(torchvision.datasets, CLASS_OF[name], slow)
    with ThreadPoolExecutor(3) as pool:
        loaded = list(pool.map(lambda _: data.load(name, data_dir, download=True), range(3)))
    assert fetched == [data_dir]
    assert all(torch.equal(one.train_x, loaded[0].train_x) for one in loaded)


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    """Two images in each batch file, with the checksums of these files."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)

    def write(file: str, content: dict) -> list[str]:
        (folder / file).write_bytes(pickle.dumps(content))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    def batch(file: str) -> list[str]:
        return write(file, {"data": generator.integers(256, size=(2, 3072), dtype=np.uint8), "labels": [3, 9]})

    monkeypatch.setattr(CIFAR10, "train_list", [batch(file) for file, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [batch(file) for file, _ in CIFAR10.test_list])
    file, md5 = write(CIFAR10.meta["filename"], {"label_names": list("0123456789")})
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"filename": file, "md5": md5})
    return tmp_path, folder


def test_cifar10_images_keep_their_channels_and_rows(tiny_cifar):
    data_dir, folder = tiny_cifar
    loaded = data.load("cifar10", data_dir)
    assert loaded.train_x.shape == (10, 3, 32, 32)
    assert loaded.test_x.shape == (2, 3, 32, 32)
    assert loaded.train_y.tolist() == [3, 9] * 5
    # a row of the file holds the red plane, then the green, then the blue
    with (folder / "test_batch").open("rb") as file:
        stored = pickle.load(file)["data"]
    assert np.array_equal((loaded.test_x.flatten(1) * 255).round().numpy(), stored)


def test_missing_and_damaged_cifar10_files_are_named(tiny_cifar):
    data_dir, folder = tiny_cifar
    batch = folder / "data_batch_3"
    batch.write_bytes(change_one_byte(batch.read_bytes()))
    with pytest.raises(LossAtlasError, match=f"{batch} is damaged"):
        data.load("cifar10", data_dir)
    batch.unlink()
    with pytest.raises(LossAtlasError, match=f"{batch} is missing"):
        data.load("cifar10", data_dir)


@pytest.fixture
def own_images(tmp_path):
    """Six training and two test images of 4x5 pixels; the grey level is 10 times the label plus the number."""
    for split, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(["ant", "bee"]):
            folder = tmp_path / "insects" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (5, 4), (10 * label + i, 100, 200)).save(folder / f"{i}.png")
    return tmp_path


def test_image_folder_is_named_by_its_folder_and_keeps_images_with_labels(own_images):
    loaded = data.load("image_folder", own_images, folder="insects")
    assert (loaded.name, loaded.classes) == ("insects", 2)
    assert loaded.train_x.shape == (6, 3, 4, 5)
    assert loaded.test_x.shape == (2, 3, 4, 5)
    red = (loaded.train_x[:, 0, 0, 0] * 255).round().long()
    assert sorted(red.tolist()) == [0, 1, 2, 10, 11, 12]
    assert torch.equal(red // 10, loaded.train_y)


def test_image_folder_faults_name_the_file(own_images):
    train = own_images / "insects" / "train"

    def load():
        return data.load("image_folder", own_images, folder="insects")

    picture = train / "bee" / "1.png"
    intact = picture.read_bytes()
    for damaged in (intact[:50], b"", change_one_byte(intact[:50]) + intact[50:]):
        picture.write_bytes(damaged)
        with pytest.raises(LossAtlasError, match=f"{picture} cannot be read as an image"):
            load()
    Image.new("RGB", (4, 4)).save(picture)
    with pytest.raises(LossAtlasError, match="all images must have one size"):
        load()
    picture.write_bytes(intact)
    (train / "bee").rename(train / "wasp")
    with pytest.raises(LossAtlasError, match="folders for the same classes"):
        load()
    with pytest.raises(LossAtlasError, match=f"{own_images / 'plants' / 'train'} must have a folder"):
        data.load("image_folder", own_images, folder="plants")


def test_wrong_names_get_a_sentence():
    with pytest.raises(LossAtlasError, match="'mnist2' is unknown; use one of mnist1d, digits"):
        data.load("mnist2")
    with pytest.raises(LossAtlasError, match="mnist needs data_dir"):
        data.load("mnist")
    with pytest.raises(LossAtlasError, match="image_folder needs `folder`"):
        data.load("image_folder", ".")


def test_torch_and_torchvision_from_two_places_are_recognised(tmp_path, monkeypatch):
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    fake = tmp_path / "torchvision" / "__init__.py"
    fake.parent.mkdir()
    fake.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LossAtlasError, match="install both from the same place"):
        data.load("mnist", tmp_path)


# --- synthetic ------------------------------------------------------------------------------------------------------


def test_gaussian_classes_have_unit_noise_and_the_stated_spread_of_centres():
    classes, dim, rows = 10, 64, 20_000
    made = data.gaussian_classes(torch.Generator().manual_seed(0), rows, 100, classes, dim)
    assert made.test_x.shape == (100, dim)
    x, y = made.train_x.double(), made.train_y
    counts = y.bincount(minlength=classes)
    means = torch.stack([x[y == c].mean(0) for c in range(classes)])
    # within a class the sum of squares about its mean is chi² with (rows - classes) dim degrees of freedom
    within = (x - means[y]).square().sum() / ((rows - classes) * dim)
    assert abs(within - 1) < 4 * (2 / ((rows - classes) * dim)) ** 0.5
    # a class mean is N(0, 1.5² / sqrt(dim) + 1 / count) in each coordinate: chi² with classes · dim
    between = (means.square() / (2.25 / dim**0.5 + 1 / counts[:, None])).mean()
    assert abs(between - 1) < 4 * (2 / (classes * dim)) ** 0.5
    # labels are drawn evenly: chi² with classes - 1
    expected = rows / classes
    uneven = ((counts - expected).square() / expected).sum()
    assert uneven < (classes - 1) + 4 * (2 * (classes - 1)) ** 0.5


# --- the real files, where there are some ---------------------------------------------------------------------------

needs_files = pytest.mark.skipif(
    "LOSSATLAS_DATA_DIR" not in os.environ, reason="LOSSATLAS_DATA_DIR does not name a folder with the files"
)


@needs_files
@pytest.mark.parametrize("name", CLASS_OF)
def test_real_idx_files_have_their_published_sizes(name):
    loaded = data.load(name, os.environ["LOSSATLAS_DATA_DIR"])
    assert loaded.train_x.shape == (60_000, 1, 28, 28)
    assert loaded.test_x.shape == (10_000, 1, 28, 28)
    assert (loaded.train_x.min(), loaded.train_x.max()) == (0, 1)
    assert loaded.test_y.bincount().sum() == 10_000
    assert len(loaded.train_y.bincount()) == len(loaded.test_y.bincount()) == 10


@needs_files
def test_real_cifar_images_have_equal_classes():
    loaded = data.load("image_folder", os.environ["LOSSATLAS_DATA_DIR"], folder="cifar10-jpeg")
    assert loaded.name == "cifar10-jpeg"
    assert loaded.train_x.shape == (50_000, 3, 32, 32)
    assert loaded.test_x.shape == (10_000, 3, 32, 32)
    assert loaded.train_y.bincount().tolist() == [5000] * 10
    assert loaded.test_y.bincount().tolist() == [1000] * 10
