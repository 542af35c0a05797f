"""What is written is read back bit for bit, or refused by name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lossatlas.artifacts import file_hash, load, load_table, rows, save, save_table
from lossatlas.checkpoint import Checkpoint
from lossatlas.errors import LossAtlasError

PARAMETERS = {"learning_rate": 0.1, "widths": [64, 64]}
TABLE = [{"id": "a,b", "n": 5, "loss": 0.1, "ok": True}, {"id": "", "n": 6, "loss": None, "ok": False}]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_array(path="runs.npz", **changes):
    save(path, {"loss": np.arange(6.0).reshape(2, 3)}, **{"parameters": PARAMETERS, "code": "c0de", **changes})


def write_table(path="rows.csv", **changes):
    save_table(path, TABLE, **{"parameters": PARAMETERS, "code": "c0de", **changes})


KINDS = pytest.mark.parametrize(
    ("write", "read", "path"), [(write_array, load, "runs.npz"), (write_table, load_table, "rows.csv")]
)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, min_side=0, max_side=3)))
def test_arrays_come_back_bit_for_bit(array):
    save("any.npz", {"array": array, "transposed": array.T}, parameters={}, code="")
    back = load("any.npz")
    assert same(back["array"], array)
    assert same(back["transposed"], array.T)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))
COLUMNS = st.fixed_dictionaries(
    {
        "real": st.lists(st.floats(allow_nan=True), min_size=4, max_size=4),
        "whole": st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4),
        "text": st.lists(TEXT, min_size=4, max_size=4),
        "truth": st.lists(st.booleans(), min_size=4, max_size=4),
    }
)


@given(COLUMNS)
def test_tables_come_back_bit_for_bit_and_write_the_same_bytes_again(columns):
    save_table("any.csv", columns, parameters={}, code="")
    back = load_table("any.csv")
    first = Path("any.csv").read_bytes()
    save_table("any.csv", rows(back), parameters={}, code="")
    assert Path("any.csv").read_bytes() == first
    assert np.array_equal(back["real"], columns["real"], equal_nan=True)
    assert np.array_equal(np.signbit(back["real"]), np.signbit(columns["real"])) or np.isnan(back["real"]).any()
    for name, dtype in (("whole", np.int64), ("text", object), ("truth", bool)):
        assert back[name].tolist() == columns[name]
        assert back[name].dtype == dtype


def test_a_table_is_the_same_given_as_rows_or_as_columns():
    write_table("rows.csv")
    columns = {name: [row[name] for row in TABLE] for name in TABLE[0]}
    save_table("columns.csv", columns, parameters=PARAMETERS, code="c0de")
    assert Path("rows.csv").read_bytes() == Path("columns.csv").read_bytes()


def test_a_table_without_rows_keeps_its_columns():
    save_table("none.csv", {"id": [], "loss": []}, parameters={}, code="")
    assert list(load_table("none.csv")) == ["id", "loss"]
    assert rows(load_table("none.csv")) == []


@KINDS
def test_bytes_depend_on_neither_folder_nor_order_of_settings(write, read, path, tmp_path, monkeypatch):
    written = []
    for name, parameters in (
        ("one", {"b": (1, 2.0), "a": {"x": 1, "y": 2}}),
        ("two", {"a": {"y": 2, "x": 1.0}, "b": [1, 2]}),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("data.txt").write_text("data")
        write(parameters=parameters, inputs=[tmp_path / name / "data.txt"])
        written.append({file.name: file.read_bytes() for file in Path().iterdir()})
        read(path, parameters={"a": {"y": 2.0, "x": 1}, "b": np.array([1.0, 2.0])})
    assert written[0] == written[1]
    assert not any(str(tmp_path).encode() in content for content in written[0].values())


@KINDS
def test_a_stale_file_is_refused_with_what_differs_and_the_way_out(write, read, path):
    Path("data.txt").write_text("data")
    write(inputs=["data.txt"])
    read(path, parameters=dict(reversed(PARAMETERS.items())), code="c0de")
    with pytest.raises(LossAtlasError, match=r"learning_rate: 0\.1 in the file, 0\.3 in the config") as refused:
        read(path, parameters={**PARAMETERS, "learning_rate": 0.3})
    assert str(refused.value).startswith(path)
    assert str(refused.value).endswith(f"snakemake --cores all --force {path}")
    with pytest.raises(LossAtlasError, match="seed: nothing in the file, 1 in the config"):
        read(path, parameters={**PARAMETERS, "seed": 1})
    with pytest.raises(LossAtlasError, match="code: c0de in the file, beef now"):
        read(path, code="beef")
    Path("data.txt").write_text("Data")
    with pytest.raises(LossAtlasError, match=rf"^{path} .*data\.txt has changed since"):
        read(path)
    Path("data.txt").unlink()  # temp() files are gone on purpose
    read(path)


def test_true_is_not_the_number_one():
    write_array(parameters={"flag": True})
    with pytest.raises(LossAtlasError, match="flag: true in the file, 1 in the config"):
        load("runs.npz", parameters={"flag": 1})


def test_the_command_can_be_set_for_a_run_and_for_one_file(monkeypatch):
    monkeypatch.setenv("LOSSATLAS_RUN", "snakemake --configfile x.yaml")
    with pytest.raises(LossAtlasError, match=r"does not exist; .* snakemake --configfile x\.yaml --force 'a b\.npz'$"):
        load("a b.npz")
    with pytest.raises(LossAtlasError, match=r"with: make tea$"):
        load("a b.npz", remedy="make tea")


@KINDS
def test_every_truncation_is_refused(write, read, path):
    write()
    whole = Path(path).read_bytes()
    for length in range(len(whole)):
        Path(path).write_bytes(whole[:length])
        with pytest.raises(LossAtlasError, match=path):
            read(path)


@KINDS
def test_a_flipped_bit_is_refused_or_changes_nothing(write, read, path):
    """Nothing changes where a zip archive holds what no reader uses, such as the date of a member."""
    write()
    whole = Path(path).read_bytes()
    before = read(path)
    refused = 0
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        Path(path).write_bytes(flipped)
        try:
            after = read(path)
        except LossAtlasError:
            refused += 1
        else:
            assert after.meta == before.meta
            assert all(np.array_equal(after[name], before[name]) for name in before)
    # a CSV has no idle bytes; those of an archive are the few header fields of its two members
    assert refused == len(whole) if path.endswith(".csv") else refused > 0.8 * len(whole)


def test_an_array_file_that_was_altered_and_saved_again_is_refused():
    write_array()
    with np.load("runs.npz") as file:
        contents = dict(file)
    np.savez("runs.npz", **contents)
    load("runs.npz")  # the same contents again are no alteration
    for altered in (contents["loss"] + 1, contents["loss"].T, contents["loss"].astype(np.float32)):
        np.savez("runs.npz", **{**contents, "loss": altered})
        with pytest.raises(LossAtlasError, match=r"runs\.npz was changed after it was written"):
            load("runs.npz")
    np.savez("runs.npz", **contents, extra=np.zeros(1))
    with pytest.raises(LossAtlasError, match=r"runs\.npz was changed after it was written"):
        load("runs.npz")


def test_an_edited_sidecar_is_refused():
    write_table()
    sidecar = Path("rows.csv.meta.json")
    sidecar.write_text(sidecar.read_text().replace("0.1", "0.3"))
    with pytest.raises(LossAtlasError, match=r"rows\.csv was changed after it was written"):
        load_table("rows.csv")
    sidecar.unlink()
    with pytest.raises(LossAtlasError, match=r"rows\.csv\.meta\.json does not exist"):
        load_table("rows.csv")


def test_foreign_files_are_refused():
    np.savez("foreign.npz", loss=np.zeros(3))
    with pytest.raises(LossAtlasError, match=r"foreign\.npz was not written by lossatlas"):
        load("foreign.npz")
    np.savez("pickled.npz", loss=np.array([object()]))
    with pytest.raises(LossAtlasError, match=r"pickled\.npz is damaged"):
        load("pickled.npz")
    Path("foreign.csv").write_text("a,b\n1,2\n")
    Path("foreign.csv.meta.json").write_text("[]")
    with pytest.raises(LossAtlasError, match=r"foreign\.csv was not written by lossatlas"):
        load_table("foreign.csv")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ([{"a": 1}, {"b": 1}], "rows for t.csv differ"),
        ([], "no columns"),
        ({"a": [1], "b": [1, 2]}, "different lengths"),
        ({"a": [1, "x"]}, "column a for t.csv mixes int, str"),
        ({"a": [True, None]}, "column a for t.csv mixes NoneType, bool"),
        ({"a": [2**63]}, "column a for t.csv"),
        ({"a": ["\r"]}, "column a for t.csv"),
    ],
)
def test_a_table_that_would_not_read_back_is_not_written(table, sentence):
    with pytest.raises(LossAtlasError, match=sentence):
        save_table("t.csv", table, parameters={}, code="")
    assert not Path("t.csv").exists()


def test_what_cannot_be_kept_is_refused_by_name():
    with pytest.raises(LossAtlasError, match=r"parameters\.optimizer\.lr is a complex"):
        write_array(parameters={"optimizer": {"lr": 1j}})
    with pytest.raises(LossAtlasError, match=r"input gone\.txt could not be read"):
        write_array(inputs=["gone.txt"])
    with pytest.raises(LossAtlasError, match=r"array who for x\.npz holds Python objects"):
        save("x.npz", {"who": np.array([None])}, parameters={}, code="")


def test_inputs_outside_the_working_folder_are_kept_by_name_alone(tmp_path, monkeypatch):
    (tmp_path / "data.bin").write_text("data")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    write_array(inputs=[tmp_path / "data.bin"])
    assert list(load("runs.npz").meta["inputs"]) == ["outside:data.bin"]


def test_a_checkpoint_brings_back_every_bit_of_a_training():
    import torch

    def training():
        torch.manual_seed(0)
        weights = torch.nn.Parameter(torch.randn(3, 2))
        return weights, torch.optim.Adam([weights], lr=0.1), torch.Generator().manual_seed(1)

    def step(weights, optimizer, generator):
        optimizer.zero_grad()
        (weights * torch.randn(3, 2, generator=generator)).square().sum().backward()
        optimizer.step()

    def state(weights, optimizer, generator):
        return {"weights": weights, "optimizer": optimizer.state_dict(), "generator": generator.get_state()}

    unkilled, killed, resumed = training(), training(), training()
    for _ in range(7):
        step(*unkilled)
    for _ in range(3):
        step(*killed)
    checkpoint = Checkpoint("run.checkpoint.npz", PARAMETERS, "c0de")
    checkpoint.save(state(*killed))
    saved = checkpoint.load()
    resumed[0].data.copy_(saved["weights"])
    resumed[1].load_state_dict(saved["optimizer"])
    resumed[2].set_state(saved["generator"])
    for _ in range(4):
        step(*resumed)
    assert torch.equal(resumed[0], unkilled[0])


def test_a_checkpoint_keeps_kinds_keys_and_precisions():
    import torch

    state = {
        0: (1, 2.5, None, True, "text", float("inf")),
        "rng": np.random.default_rng(3).bit_generator.state,
        "tensors": [torch.tensor(0.1, dtype=torch.bfloat16), torch.tensor([True]), torch.zeros(0, 3)],
        "array": np.float32([0.1]),
    }
    checkpoint = Checkpoint("c.npz", {}, "")
    checkpoint.save(state)
    back = checkpoint.load()
    assert back[0] == state[0]
    assert back["rng"] == state["rng"]
    assert same(back["array"], state["array"])
    for tensor, original in zip(back["tensors"], state["tensors"], strict=True):
        assert tensor.dtype == original.dtype
        assert torch.equal(tensor, original)
    with pytest.raises(LossAtlasError, match="cannot hold a set"):
        checkpoint.save({"s": {1}})


def test_a_checkpoint_of_another_run_is_not_used_and_says_so(capsys):
    mine = Checkpoint("c.npz", PARAMETERS, "c0de")
    assert mine.load() is None
    assert capsys.readouterr().err == ""
    mine.save([1])
    assert mine.load() == [1]
    assert Checkpoint("c.npz", {**PARAMETERS, "learning_rate": 0.3}, "c0de").load() is None
    assert "learning_rate: 0.1 in the file, 0.3 in the config" in capsys.readouterr().err
    assert Checkpoint("c.npz", PARAMETERS, "beef").load() is None
    Path("c.npz").write_bytes(Path("c.npz").read_bytes()[:-1])
    assert mine.load() is None
    assert "not resumed: c.npz is damaged" in capsys.readouterr().err


def test_inputs_are_known_by_their_sha256():
    Path("empty").touch()  # the digest of the empty message, from the examples to FIPS 180-4
    assert file_hash("empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
