from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import claims, claims_table
    from lossatlas.atomic import atomic

    files = zip(snakemake.input.figures, snakemake.input.captions, strict=True)
    figures = [claims_table.Plate(Path(png).read_bytes(), Path(caption).read_text()) for png, caption in files]
    page = claims_table.to_html(claims.read_csv(snakemake.input.csv), claims.load_ledger(Path("claims")), figures)
    with atomic(snakemake.output[0]) as handle:
        handle.write(page.encode())
