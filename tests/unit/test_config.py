"""The shipped schema is complete, a wrong key gets one sentence, and the reference page follows the schema."""

from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas.config import load_schema, reference_page, validate
from lossatlas.errors import LossAtlasError

ROOT = Path(__file__).parents[2]
SHIPPED = load_schema(ROOT / "workflow" / "schemas" / "config.schema.yaml")

SCHEMA = {
    "type": "object",
    "description": "A laboratory.",
    "additionalProperties": False,
    "properties": {
        "device": {"enum": ["cpu", "cuda"], "description": "Where.", "default": "cpu"},
        "study": {
            "type": "object",
            "description": "A study.",
            "additionalProperties": False,
            "properties": {
                "learning_rate": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "description": "Step | size.",
                    "default": 0.1,
                },
                "seeds": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0},
                    "minItems": 1,
                    "description": "Seeds.",
                    "default": [0, 1],
                },
                "arms": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "description": "An arm.",
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string", "description": "Name.", "default": "sgd"},
                        },
                    },
                    "description": "Arms.",
                    "default": [{}],
                },
            },
        },
    },
}


def entries(schema, key="config"):
    yield key, schema
    for name, entry in schema.get("properties", {}).items():
        yield from entries(entry, f"{key}.{name}")
    if "items" in schema:
        yield from entries(schema["items"], f"{key}[]")


def test_every_key_of_the_shipped_schema_is_described_and_has_a_default():
    jsonschema.Draft202012Validator.check_schema(SHIPPED)
    for key, entry in entries(SHIPPED):
        if "properties" in entry:
            assert entry["additionalProperties"] is False, key
        if key.endswith("[]"):
            continue
        assert entry["description"].strip(), key
        assert "default" in entry or "properties" in entry, key
        assert all(len(name) > 1 for name in entry.get("properties", {})), key


def test_the_defaults_of_the_shipped_schema_are_valid_and_complete():
    filled = validate({}, SHIPPED)
    assert validate(filled, SHIPPED) == filled
    assert list(filled) == list(SHIPPED["properties"])


def test_the_committed_reference_page_is_that_of_the_schema():
    page = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert page == reference_page(SHIPPED), "run: python -m lossatlas config-reference > config/README.md"


def test_the_reference_page_has_every_key_once():
    page = reference_page(SCHEMA)
    assert "\n## `study`\n\nA study.\n" in page
    assert '\n| `device` | `cpu` or `cuda` | `"cpu"` | Where. |\n' in page
    assert "\n| `learning_rate` | number, > 0 | `0.1` | Step \\| size. |\n" in page
    assert "\n| `seeds` | list of integer, ≥ 0 | `[0, 1]` | Seeds. |\n" in page


def test_defaults_are_filled_at_every_depth_and_given_values_stay():
    given = {"study": {"seeds": [7], "arms": [{"name": "adam"}, {}]}}
    filled = validate(given, SCHEMA)
    assert filled == {
        "device": "cpu",
        "study": {"learning_rate": 0.1, "seeds": [7], "arms": [{"name": "adam"}, {"name": "sgd"}]},
    }
    assert given == {"study": {"seeds": [7], "arms": [{"name": "adam"}, {}]}}
    assert validate({}, SCHEMA)["study"]["arms"] == [{"name": "sgd"}]


def test_a_filled_config_shares_nothing_with_the_schema():
    validate({}, SCHEMA)["study"]["seeds"].append(99)
    assert validate({}, SCHEMA)["study"]["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"devise": "cpu"}, "my.yaml: there is no key devise; did you mean device?"),
        (
            {"study": {"learnig_rate": 1, "sedes": [1]}},
            "my.yaml: there is no key study.learnig_rate; did you mean study.learning_rate?; "
            "there is no key study.sedes; did you mean study.seeds?",
        ),
        (
            {"study": {"arms": [{}, {"nmae": "x"}]}},
            "there is no key study.arms[1].nmae; did you mean study.arms[1].name?",
        ),
        ({"device": "cudaa"}, "my.yaml: device must be one of cpu, cuda, not 'cudaa'; did you mean cuda?"),
        ({"device": 3}, "my.yaml: device must be one of cpu, cuda, not 3"),
        ({"study": {"learning_rate": 0}}, "my.yaml: study.learning_rate: 0 is less than or equal to the minimum of 0"),
        ({"study": {"learning_rate": "fast"}}, "my.yaml: study.learning_rate must be of type number, > 0, not 'fast'"),
        ({"study": {"learning_rate": "1e-3"}}, "write 1.0e-3"),
        ({"study": {"learning_rate": True}}, "study.learning_rate must be of type number, > 0, not True"),
        ({"study": {"seeds": []}}, "study.seeds: [] should be non-empty"),
        ({"study": {"seeds": [0, -1]}}, "study.seeds[1]: -1 is less than the minimum of 0"),
        ({"study": None}, "study must be of type object, not None"),
    ],
)
def test_a_wrong_config_gets_one_sentence_with_file_key_and_way_out(config, sentence):
    with pytest.raises(LossAtlasError) as refused:
        validate(config, SCHEMA, "my.yaml")
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_word_is_not_taken_for_a_misspelt_one():
    with pytest.raises(LossAtlasError, match=r"device must be one of cpu, cuda, not 'gpu'$"):
        validate({"device": "gpu"}, SCHEMA)


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text(), min_size=1))
def test_no_config_slips_through_with_a_key_that_the_schema_lacks(config):
    if set(config) <= set(SCHEMA["properties"]):
        return
    with pytest.raises(LossAtlasError, match="there is no key"):
        validate(config, SCHEMA)
