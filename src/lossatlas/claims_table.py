"""The claims table for people: Markdown, a sortable HTML page, and the part of the README that shows it."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lossatlas.claims import Ledger
from lossatlas.errors import LossAtlasError
from lossatlas.verdicts import JUDGED, Verdict

ALPHA = 0.05  # the largest one-sided error any claim's interval allows: 90 % intervals
HEADINGS = ("claim", "statement", "source", "published", "measured", "n", "verdict")
START, END = "<!-- claims:start -->", "<!-- claims:end -->"

Row = Mapping[str, str]


@dataclass(frozen=True)
class Plate:
    """A figure with its caption."""

    png: bytes
    caption: str


def summary(rows: Sequence[Row]) -> str:
    """How many rows were judged, with which outcome, and how many false alarms to expect among them."""
    judged = sum(row["verdict"] in JUDGED for row in rows)
    return (
        f"{len(rows)} claims: {_counts(rows) or 'none'}. Judged: {judged}. If every true value lay on the margin of "
        f"its rule, chance alone would make up to {ALPHA * judged:.1f} of these wrongly `not reproduced`, and as many "
        "wrongly `reproduced`."
    )


def to_markdown(rows: Sequence[Row]) -> str:
    """The summary, and for each study its verdicts with a table that opens on a click."""
    lines = [summary(rows)]
    for study in dict.fromkeys(row["study"] for row in rows):
        own = [row for row in rows if row["study"] == study]
        lines += ["", f"<details><summary><b>{study}</b>: {_counts(own)}</summary>", ""]
        lines += [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
        for row in own:
            cells = (f"`{row['id']}`", row["statement"], _source(row), row["published"], _measured(row), row["n"])
            lines.append(_line([*(cell.replace("|", "\\|") for cell in cells), f"**{row['verdict']}**"]))
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def to_html(rows: Sequence[Row], ledger: Ledger, figures: Sequence[Plate] = ()) -> str:
    """One self-contained page: figures with captions, the table, sorted by a click on a heading, and the citations.

    Under each statement open, on a click, the exact aggregate, the tolerance's reason, and why a row is not comparable.
    A word typed above the table leaves only the rows that hold it.
    """
    claims = {claim.id: claim for claim in ledger.claims}
    body = []
    for row in rows:
        claim = claims[row["id"]]
        notes = [claim.aggregate, f"Tolerance {row['tolerance']}: {claim.tolerance_reason}"]
        if row["verdict"] == Verdict.NOT_COMPARABLE:
            notes.append(f"Not comparable: {claim.not_comparable}")
        explained = "".join(f"<p>{escape(note)}</p>" for note in notes)
        statement = f"{escape(row['statement'])}<details><summary>how it is judged</summary>{explained}</details>"
        cells = (
            f"<td><code>{escape(row['id'])}</code>",
            f"<td>{statement}",
            f'<td><a href="#{escape(row["source"])}">{escape(_source(row))}</a>',
            f'<td data-key="{row["published"]}">{row["published"]}',
            f'<td data-key="{row["measured"]}">{escape(_measured(row))}',
            f'<td data-key="{row["n"]}">{row["n"]}',
            f"<td><b>{escape(row['verdict'])}</b>",
        )
        body.append(f'<tr class="{row["verdict"].replace(" ", "-")}">{"".join(f"{cell}</td>" for cell in cells)}</tr>')
    headings = "".join(f'<th><button type="button">{heading}</button></th>' for heading in HEADINGS)
    citations = "".join(
        f'<li id="{escape(s.key)}">{escape(s.authors)}{f" ({s.year})" if s.year else ""}. {escape(s.title)}. '
        f"{escape(s.venue)}. {_link(s.url)}{f' Code: {_link(s.code)}' if s.code else ''}</li>"
        for s in ledger.sources.values()
    )
    images = "".join(
        f'<figure><img alt="" src="data:image/png;base64,{b64encode(plate.png).decode()}">'
        f"<figcaption>{escape(plate.caption)}</figcaption></figure>"
        for plate in figures
    )
    return PAGE.format(
        summary=escape(summary(rows).replace("`", "")),
        images=images,
        headings=headings,
        body="\n".join(body),
        citations=citations,
        script=SORT,
    )


def with_table(readme: str, table: str) -> str:
    """`readme` with `table` between its two markers. Raises `LossAtlasError` unless each stands there once."""
    before, found, rest = readme.partition(START)
    _, closed, after = rest.partition(END)
    if not (found and closed) or START in rest or END in before + after:
        raise LossAtlasError(f"the README must hold {START} and then {END}, once each, to take the claims table")
    return f"{before}{START}\n{table.strip()}\n{END}{after}"


def _counts(rows: Sequence[Row]) -> str:
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in Verdict}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _source(row: Row) -> str:
    return ", ".join(part for part in (row["source"], row["place"]) if part)


def _measured(row: Row) -> str:
    """The value and its limits to three digits; the CSV has the rest. Limits that equal the value are no news."""
    value, low, high = (f"{float(row[name]):.3g}" if row[name] else "" for name in ("measured", "low", "high"))
    limits = "" if low == high == value else f" [{low}, {high}]"
    return f"{value}{limits if low or high else ''} {row['unit']}" if value else ""


def _link(url: str) -> str:
    return f'<a href="{escape(url)}">{escape(url)}</a>' if url.startswith("https://") else escape(url)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Loss Atlas</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em; }}
table {{ border-collapse: collapse; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .4em .6em; text-align: left; vertical-align: top; }}
th button {{ all: unset; cursor: pointer; font-weight: bold; }}
figure {{ margin: 2em 0; max-width: 60em; }}
img {{ max-width: 100%; }}
figcaption {{ color: #333; }}
td details {{ color: #555; font-size: 85%; }}
td:nth-child(2) {{ min-width: 26em; }}
td p {{ margin: .3em 0 0; }}
input {{ font: inherit; padding: .3em; width: 24em; }}
tr.reproduced td:last-child {{ background: #d6e9f8; }}
tr.not-reproduced td:last-child {{ background: #fbdcc4; }}
</style></head><body>
<h1>Loss Atlas</h1>
{images}
<h2>Claims</h2>
<p>{summary}</p>
<p><input type="search" aria-label="filter" placeholder="filter: a study, a verdict, any word"></p>
<table><thead><tr>{headings}</tr></thead><tbody>
{body}
</tbody></table>
<h2>Sources</h2>
<ul>{citations}</ul>
<script>{script}</script>
</body></html>
"""

SORT = """
document.querySelectorAll("th button").forEach((button, column) => {
  let direction = 1;
  const key = row => row.cells[column].dataset.key ?? row.cells[column].textContent;
  const compare = (a, b) =>
    a === "" || b === "" ? (a === "") - (b === "")  // missing values stay last
    : direction * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  button.addEventListener("click", () => {
    const body = document.querySelector("tbody");
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
    direction = -direction;
  });
});
document.querySelector("input").addEventListener("input", event => {
  const word = event.target.value.toLowerCase();
  document.querySelectorAll("tbody tr").forEach(row => row.hidden = !row.textContent.toLowerCase().includes(word));
});
"""
