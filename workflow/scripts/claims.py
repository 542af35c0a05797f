from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, claims, claims_table
    from lossatlas.atomic import atomic

    measurements = [row for path in snakemake.input.measurements for row in artifacts.rows(artifacts.load_table(path))]
    rows = claims.judge_claims(claims.load_ledger("claims"), measurements, snakemake.params.tier)
    claims.write_csv(rows, snakemake.output.csv)
    with atomic(snakemake.output.markdown) as handle:
        handle.write(claims_table.to_markdown(rows).encode())
