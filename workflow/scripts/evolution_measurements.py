from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, claims, tables
    from lossatlas.studies.evolution import measurements

    params = snakemake.params
    loaded = {name: tables.frame(artifacts.load_table(path, code=code)) for name, (path, code) in params.tables.items()}
    found = measurements.measure(loaded)
    rows = claims.measurement_rows(found, claims.load_ledger("claims"), snakemake.output[0])
    artifacts.save_table(snakemake.output[0], rows, parameters={}, inputs=snakemake.input.tables, code=params.code)
