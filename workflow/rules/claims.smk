rule claims:
    """The table of claims with measured values and verdicts, as CSV and Markdown."""
    input:
        measurements=expand(
            "results/{tier}/{study}/measurements.csv", tier=tier, study=STUDIES
        ),
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
    output:
        csv=f"results/{tier}/claims.csv",
        markdown=report(
            f"results/{tier}/claims.md",
            caption="../report/claims.rst",
            category="claims",
        ),
    log:
        f"logs/{tier}/claims.log",
    threads: 1
    params:
        tier=tier,
        code=code("lossatlas.claims", "lossatlas.claims_table"),
    message:
        "judge the claims"
    script:
        "../scripts/claims.py"


rule report:
    """One page with every figure and the table of claims, sortable."""
    input:
        csv=f"results/{tier}/claims.csv",
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
        figures=expand("results/{tier}/figures/{figure}.png", tier=tier, figure=FIGURES),
        captions=expand("workflow/report/{figure}.rst", figure=FIGURES),
    output:
        f"results/{tier}/report.html",
    log:
        f"logs/{tier}/report.log",
    threads: 1
    params:
        code=code("lossatlas.claims_table"),
    message:
        "write the report"
    script:
        "../scripts/report.py"


rule compare:
    """Measured against the committed reference; fails when a judged row got lost."""
    input:
        csv=f"results/{tier}/claims.csv",
    log:
        f"logs/{tier}/compare.log",
    threads: 1
    params:
        reference=f"results/reference/{tier}/claims.csv",
    message:
        "compare with the reference"
    script:
        "../scripts/compare.py"
