"""Missing data is said once, before the first job, and only where a job will read it."""

from types import SimpleNamespace

import pytest

from lossatlas.data_files import FOLDERS, check
from lossatlas.errors import LossAtlasError

CONFIG = {"data_dir": "data", "download": False}


def job(rule, **params):
    return SimpleNamespace(rule=SimpleNamespace(name=rule), params=params)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_missing_folder_is_named_once_with_the_way_out():
    jobs = [
        job("train", baseline={"data": "mnist"}),
        job("train", baseline={"data": "mnist"}),
        job("teleport_run", settings=[{"data": "digits"}, {"leap": {"data": "fashion_mnist"}}]),
        job("train", baseline={"data": "image_folder", "folder": "cats"}),
    ]
    with pytest.raises(LossAtlasError) as refused:
        check(jobs, CONFIG)
    assert str(refused.value) == (
        "data is missing: data/FashionMNIST/raw, data/MNIST/raw, data/cats/train; set data_dir to the folder that has "
        "it (--config data_dir=DIR), or download: true for the public sets"
    )


@pytest.mark.parametrize(
    "jobs",
    [
        [],
        [job("perlin_counts", settings={"white_fields": 2}, code="abc")],
        [job("train", baseline={"data": "digits"}), job("train", baseline={"data": "mnist1d"})],
        [job("mli_measurements", baselines={"mnist": {"data": "mnist"}})],
    ],
)
def test_jobs_that_read_no_files_are_not_held_up(jobs):
    check(jobs, CONFIG)


def test_what_can_be_fetched_is_not_missing_but_a_users_own_images_are():
    jobs = [job("train", baseline={"data": "cifar10"})]
    check(jobs, {**CONFIG, "download": True})
    jobs.append(job("train", baseline={"data": "image_folder", "folder": "cats"}))
    with pytest.raises(LossAtlasError, match=r"data is missing: data/cats/train; "):
        check(jobs, {**CONFIG, "download": True})


@pytest.mark.parametrize(("name", "folder"), FOLDERS.items())
def test_a_folder_that_is_there_is_left_to_its_reader(name, folder, in_an_empty_folder):
    (in_an_empty_folder / "data" / folder).mkdir(parents=True)
    check([job("train", baseline={"data": name})], CONFIG)


def test_the_folders_are_those_that_torchvision_reads():
    from torchvision import datasets

    expected = {
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }
    for name, kind in expected.items():
        found = kind.__new__(kind)
        found.root = ""
        folder = kind.base_folder if name == "cifar10" else found.raw_folder
        assert folder == FOLDERS[name]
