from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, claims, tables
    from lossatlas.studies.teleport import measurements

    params = snakemake.params

    def about(path):
        return {"parameters": params.settings[Path(path).stem], "code": params.runs_code}

    results = measurements.Results(
        {Path(path).stem: tables.frame(artifacts.load_table(path, **about(path))) for path in snakemake.input.tables},
        {
            Path(path).stem: artifacts.load(path, **about(path))
            for path in snakemake.input.arrays
            if Path(path).stem in measurements.ARRAYS
        },
    )
    made_of = {"parameters": {}, "inputs": [*snakemake.input.tables, *snakemake.input.arrays], "code": params.code}
    rows = claims.measurement_rows(measurements.measure(results), claims.load_ledger("claims"), snakemake.output.table)
    artifacts.save_table(snakemake.output.measurements, rows, **made_of)
    artifacts.save_table(snakemake.output.table, measurements.arms_table(results).to_dict("list"), **made_of)
