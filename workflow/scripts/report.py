from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import claims, claims_table
    from lossatlas.atomic import atomic

    figures = {Path(path).stem: Path(path).read_bytes() for path in snakemake.input.figures}
    page = claims_table.to_html(claims.read_csv(snakemake.input.csv), claims.load_ledger(Path("claims")), figures)
    with atomic(snakemake.output[0]) as handle:
        handle.write(page.encode())
