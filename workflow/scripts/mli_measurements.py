from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, claims, tables
    from lossatlas.studies.mli import measurements

    params = snakemake.params
    runs = [
        artifacts.load_table(
            path,
            parameters={"baseline": params.baselines[Path(path).stem], "settings": params.runs_settings},
            code=params.runs_code,
        )
        for path in snakemake.input.runs
    ]
    controls = [
        artifacts.load_table(
            path,
            parameters={
                "baseline": params.baselines[Path(path).stem],
                "arms": params.arms[Path(path).stem],
                "settings": params.controls_settings,
            },
            code=params.controls_code,
        )
        for path in snakemake.input.controls
    ]
    everything = measurements.Tables(tables.joined(runs), tables.joined(controls))
    about = {"parameters": {}, "inputs": [*snakemake.input.runs, *snakemake.input.controls], "code": params.code}
    rows = claims.measurement_rows(
        measurements.measure(everything), claims.load_ledger("claims"), snakemake.output.table
    )
    artifacts.save_table(snakemake.output.measurements, rows, **about)
    artifacts.save_table(snakemake.output.table, measurements.monotone_table(everything).to_dict("list"), **about)
