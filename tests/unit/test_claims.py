"""The ledger is valid, refuses what it cannot mean, and tells which judged rows got lost."""

from html.parser import HTMLParser
from math import nan
from pathlib import Path

import pytest
import yaml

from lossatlas.claims import COLUMNS, Ledger, compare, judge_claims, load_ledger, read_csv, to_csv, write_csv
from lossatlas.claims_table import END, START, Plate, summary, to_html, to_markdown, with_table
from lossatlas.errors import LossAtlasError

LEDGER = Path(__file__).parents[2] / "claims"

HEADER = {"authors": "A", "title": "T <i>", "year": 2021, "venue": "V", "url": "https://example.org", "code": None}


def entry(**changes):
    claim = {
        "id": "mli.a",
        "study": "mli",
        "place": "abstract",
        "provenance": "T",
        "statement": "a < b | c",
        "aggregate": "mean",
        "published": None,
        "unit": "share",
        "rule": {"kind": "above", "value": 0.5},
        "tolerance": 0.05,
        "tolerance_reason": "noise",
        "tiers": ["default", "paper"],
    }
    return {key: value for key, value in {**claim, **changes}.items() if value is not ...}


def ledger(folder, *entries, name="source2021", header=HEADER):
    text = yaml.safe_dump({"source": header, "claims": list(entries)}, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text)
    return load_ledger(folder)


def measurement(name="mli.a", measured=0.9, low=0.8, high=0.95, n=40, unit="share", artifact="a.npz"):
    return {"id": name, "measured": measured, "low": low, "high": high, "n": n, "unit": unit, "artifact": artifact}


# --- the project's own ledger


@pytest.fixture(scope="module")
def ours() -> Ledger:
    return load_ledger(LEDGER)


def test_every_claim_of_the_ledger_can_be_traced_and_judged(ours):
    for claim in ours.claims:
        assert claim.source in ours.sources, claim.id
        assert claim.tolerance_reason.strip(), claim.id
        assert claim.place or claim.provenance in "DM", claim.id
        assert claim.tiers or claim.not_comparable, claim.id
        # a number can only be checked against a number, or a ratio of measured to stated against 1
        stated = 1 if claim.published is None and claim.unit == "ratio" else claim.published
        assert claim.rule.kind != "equals" or stated == claim.rule.value, claim.id


def test_claim_ids_are_unique_and_begin_with_their_study(ours):
    ids = [claim.id for claim in ours.claims]
    assert len(set(ids)) == len(ids)
    assert all(claim.id.split(".")[0] == claim.study for claim in ours.claims if claim.study in ("mli", "baselines"))


def test_no_number_is_given_for_tables_that_were_not_seen(ours):
    unseen = [claim for claim in ours.claims if claim.source in ("lucas2021", "vlaar2022")]
    assert unseen
    assert all(claim.published is None for claim in unseen)


def test_theorems_and_closed_forms_are_judged_at_every_tier(ours):
    by_id = {claim.id: claim for claim in ours.claims}
    for name in ("mli.sufficient", "mli.plateau_toy", "mli.zero_init_exact"):
        assert by_id[name].rule.kind == "exact"
        assert by_id[name].tiers == ("smoke", "default", "paper")


# --- validation


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tolerence": 1}, "unknown key tolerence, did you mean tolerance?"),
        ({"source": "other"}, "unknown key source, did you mean"),
        ({"tolerance": ...}, "the key tolerance is missing"),
        ({"tolerance": -1}, "tolerance must be a number ≥ 0"),
        ({"tolerance_reason": " "}, "tolerance_reason must be a text"),
        ({"published": "1e-3"}, "published must be a number or null .*write 0.001"),
        ({"provenance": "X"}, "provenance must be one of T, C"),
        ({"place": ""}, "place must be"),
        ({"tiers": ["defualt"]}, "tiers must be a list out of smoke, default, paper"),
        ({"rule": {"kind": "above"}}, "rule of claim mli.a .*the key value is missing"),
        ({"rule": {"kind": "abve", "value": 1}}, "no kind of rule: take one of equals, above"),
        ({"rule": {"kind": "above", "valu": 1, "value": 1}}, "unknown key valu, did you mean value?"),
        ({"rule": "above"}, "must be a mapping"),
    ],
)
def test_a_wrong_entry_gets_one_sentence_that_names_file_claim_and_key(tmp_path, changes, words):
    with pytest.raises(LossAtlasError, match=words) as error:
        ledger(tmp_path, entry(**changes))
    message = str(error.value)
    assert "source2021.yaml" in message
    assert "mli.a" in message
    assert "\n" not in message


def test_a_derived_claim_needs_no_place(tmp_path):
    assert ledger(tmp_path, entry(provenance="D", place="")).claims[0].place == ""


def test_an_id_that_comes_twice_is_refused_with_both_files(tmp_path):
    ledger(tmp_path, entry(), name="one")
    with pytest.raises(LossAtlasError, match=r"mli\.a is in .*one\.yaml and again in .*two\.yaml"):
        ledger(tmp_path, entry(), name="two")


def test_files_that_are_no_ledger_are_refused(tmp_path):
    with pytest.raises(LossAtlasError, match="holds no ledger"):
        load_ledger(tmp_path)
    with pytest.raises(LossAtlasError, match="the key year is missing"):
        ledger(tmp_path, header={key: value for key, value in HEADER.items() if key != "year"})
    (tmp_path / "source2021.yaml").write_text("source: [")
    with pytest.raises(LossAtlasError, match=r"source2021\.yaml is no valid YAML"):
        load_ledger(tmp_path)


# --- judging


def test_each_claim_gets_one_row_with_the_columns_of_the_table(tmp_path):
    book = ledger(tmp_path, entry(id="mli.b"), entry())
    rows = judge_claims(book, [measurement()], "default")
    assert [row["id"] for row in rows] == ["mli.b", "mli.a"]  # the order of the file, not of the measurements
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [row["verdict"] for row in rows] == ["not run", "reproduced"]
    assert rows[0]["measured"] == rows[0]["low"] == rows[0]["n"] == rows[0]["artifact"] == ""


def test_rows_are_ordered_by_study_then_year(tmp_path):
    ledger(tmp_path, entry(id="mli.new"), entry(id="a.new", study="a"), name="a", header={**HEADER, "year": 2024})
    ledger(tmp_path, entry(id="mli.ours"), name="b", header={**HEADER, "year": None})
    book = ledger(tmp_path, entry(id="mli.old"), name="c", header={**HEADER, "year": 2014})
    assert [claim.id for claim in book.claims] == ["a.new", "mli.old", "mli.new", "mli.ours"]


@pytest.mark.parametrize("missing", [None, nan, ""])
def test_a_missing_value_is_not_run_at_any_tier(tmp_path, missing):
    empty = measurement(
        measured=missing, low=missing, high=missing, n=missing, artifact=missing if missing == "" else None
    )
    for tier in ("smoke", "default"):
        assert judge_claims(ledger(tmp_path, entry()), [empty], tier)[0]["verdict"] == "not run"


def test_a_value_from_another_tier_is_shown_but_not_comparable(tmp_path):
    row = judge_claims(ledger(tmp_path, entry()), [measurement()], "smoke")[0]
    assert (row["measured"], row["verdict"]) == ("0.9", "not comparable")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([measurement("mli.aa")], "mli.aa is not in the ledger: did you mean mli.a?"),
        ([measurement(), measurement(artifact="b.npz")], "measured twice, in a.npz and b.npz"),
        ([measurement(unit="runs")], "'runs', its claim is in 'share'"),
        ([measurement(low=0.99)], "above its upper limit"),
        ([measurement(measured="much")], "'much' stands where"),
    ],
)
def test_measurements_that_do_not_fit_the_ledger_are_refused(tmp_path, rows, words):
    with pytest.raises(LossAtlasError, match=words):
        judge_claims(ledger(tmp_path, entry()), rows, "default")


def test_an_unknown_tier_is_refused(tmp_path):
    with pytest.raises(LossAtlasError, match="no tier"):
        judge_claims(ledger(tmp_path, entry()), [], "papers")


# --- the file


def test_the_csv_has_exactly_the_promised_columns_and_survives_a_round_trip(tmp_path):
    rows = judge_claims(ledger(tmp_path, entry()), [measurement()], "default")
    path = tmp_path / "claims.csv"
    write_csv(rows, path)
    assert path.read_bytes().split(b"\n")[0] == (
        b"id,study,source,place,statement,published,measured,low,high,unit,n,tolerance,verdict,tier,artifact"
    )
    assert read_csv(path) == rows
    assert to_csv(read_csv(path)).encode() == path.read_bytes()


def test_rounding_noise_and_the_type_of_a_number_change_no_byte(tmp_path):
    book = ledger(tmp_path, entry())
    exact = measurement(measured=0.0, low=-0.3, high=0.3, n=40)
    noisy = measurement(measured="-0.0", low=-(0.1 + 0.2), high="0.30000000000000004", n=40.0)
    assert to_csv(judge_claims(book, [exact], "default")) == to_csv(judge_claims(book, [noisy], "default"))


def test_a_table_that_is_missing_or_has_other_columns_is_refused(tmp_path):
    with pytest.raises(LossAtlasError, match="does not exist"):
        read_csv(tmp_path / "claims.csv")
    for text in ("id,measured\nmli.a,1\n", to_csv([]) + "mli.a,1\n", ""):
        (tmp_path / "claims.csv").write_text(text)
        with pytest.raises(LossAtlasError, match="no claims table"):
            read_csv(tmp_path / "claims.csv")


# --- compare


def judged(tmp_path, **values):
    return judge_claims(ledger(tmp_path, entry()), [measurement(**values)], "default")


def test_a_run_compares_equal_to_itself_and_to_one_within_tolerance(tmp_path):
    reference = judged(tmp_path)
    assert compare(reference, reference) == []
    assert compare(judged(tmp_path, measured=0.95), reference) == []  # 0.05, exactly the tolerance in decimal digits


def test_a_value_beyond_its_tolerance_is_a_line_that_names_both(tmp_path):
    lines = compare(judged(tmp_path, measured=0.82), judged(tmp_path))
    assert lines == ["mli.a: measured 0.9 share in the reference, 0.82 now (tolerance 0.05)"]


def test_a_lost_reproduction_is_a_line_even_within_tolerance(tmp_path):
    lines = compare(judged(tmp_path, low=0.4), judged(tmp_path))
    assert lines == ["mli.a: was reproduced, is inconclusive"]


def test_a_judged_row_that_vanished_or_was_not_run_is_a_line(tmp_path):
    reference = judged(tmp_path)
    assert compare([], reference) == ["mli.a: was reproduced (0.9 share), the row is gone"]
    (line,) = compare(judge_claims(load_ledger(tmp_path), [], "default"), reference)
    assert "is not run" in line
    assert "nothing now" in line


def test_what_was_not_judged_or_got_better_is_no_difference(tmp_path):
    book = ledger(tmp_path, entry(rule={"kind": "report"}))
    reported = judge_claims(book, [measurement()], "default")
    assert compare(judge_claims(book, [measurement(measured=0.1)], "default"), reported) == []
    assert compare(judged(tmp_path), judged(tmp_path, low=0.4)) == []  # from inconclusive to reproduced
    assert compare(judged(tmp_path), judge_claims(load_ledger(tmp_path), [], "default")) == []  # a row that is new


def test_tables_of_different_tiers_are_not_compared(tmp_path):
    book = ledger(tmp_path, entry())
    with pytest.raises(LossAtlasError, match="different tiers"):
        compare(judge_claims(book, [], "smoke"), judge_claims(book, [], "default"))


# --- renderings


class Page(HTMLParser):
    """Counts what a browser would see; raises on tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words, self.links = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for key, value in attrs if key in ("href", "src")]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_html_page_is_self_contained_well_formed_and_escaped(tmp_path):
    book = ledger(tmp_path, entry(statement="<script>x</script> & y"), entry(id="mli.b"))
    plate = Plate(b"png", "What & why")
    text = to_html(judge_claims(book, [measurement(artifact="x")], "smoke"), book, [plate])
    page = Page(text)
    assert "data:image/png;base64,cG5n" in page.links
    assert "What & why" in page.words
    assert page.seen.count("tr") == 3
    assert page.seen.count("script") == 1  # the sort, not the statement
    assert "<script>x</script> & y" in page.words
    assert {"not comparable", "not run"} <= set(page.words)  # a verdict is a word
    assert all(link.startswith(("#", "data:")) or link == HEADER["url"] for link in page.links)
    assert any(word.startswith("Not comparable: ") for word in page.words)


def test_markdown_has_one_line_a_claim_with_the_same_number_of_cells(tmp_path):
    rows = judge_claims(ledger(tmp_path, entry(), entry(id="mli.b")), [measurement()], "default")
    table = [line for line in to_markdown(rows).splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert {line.replace("\\|", "").count("|") for line in table} == {8}
    assert "0.9 [0.8, 0.95] share" in table[2]
    assert "**reproduced**" in table[2]


def test_markdown_has_a_part_for_each_study_that_counts_its_own_verdicts(tmp_path):
    entries = [entry(), entry(id="mli.b"), entry(id="perlin.a", study="perlin")]
    text = to_markdown(judge_claims(ledger(tmp_path, *entries), [measurement()], "default"))
    assert "<b>mli</b>: 1 reproduced, 1 not run</summary>" in text
    assert "<b>perlin</b>: 1 not run</summary>" in text
    assert text.count("<details>") == text.count("</details>") == 2


def test_the_summary_counts_judged_rows_and_the_false_alarms_to_expect(tmp_path):
    entries = [entry(id=f"mli.{k}") for k in range(41)] + [entry(id="mli.r", rule={"kind": "report"})]
    rows = judge_claims(ledger(tmp_path, *entries), [measurement(row["id"]) for row in entries[1:]], "default")
    text = summary(rows)
    assert "42 claims: 40 reproduced, 1 not run, 1 measured." in text
    assert "Judged: 40." in text
    assert "up to 2.0 of these" in text  # 5 %, the error that 90 % intervals allow on either side


def test_the_readme_takes_the_table_between_its_markers_and_nothing_else_moves(tmp_path):
    readme = f"# Title\n{START}\nold\n{END}\nafter\n"
    once = with_table(readme, "| new |\n")
    assert once == f"# Title\n{START}\n| new |\n{END}\nafter\n"
    assert with_table(once, "| new |\n") == once


@pytest.mark.parametrize("readme", ["", START, END + START, f"{START}{START}{END}", f"{START}{END}{END}"])
def test_a_readme_without_both_markers_once_is_refused(readme):
    with pytest.raises(LossAtlasError, match="once each"):
        with_table(readme, "table")
