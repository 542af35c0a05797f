from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, claims, tables
    from lossatlas.studies.composite import measurements
    from lossatlas.studies.composite.arms_table import arms_table
    from lossatlas.studies.composite.samples import Tables

    params = snakemake.params

    def kept(load, paths):
        return [load(path, parameters=params.jobs[Path(path).stem], code=params.runs_code) for path in paths]

    runs = {Path(t.path).stem: tables.frame(t) for t in kept(artifacts.load_table, snakemake.input.runs)}
    logs = {Path(a.path).stem: a for a in kept(artifacts.load, snakemake.input.logs)}
    toys = artifacts.load_table(snakemake.input.toys, parameters=params.settings, code=params.toys_code)
    everything = Tables(params.jobs, runs, logs, tables.frame(toys))
    inputs = [*snakemake.input.runs, *snakemake.input.logs, snakemake.input.toys]
    about = {"parameters": {}, "inputs": inputs, "code": params.code}
    rows = claims.measurement_rows(
        measurements.measure(everything), claims.load_ledger("claims"), snakemake.output.arms
    )
    artifacts.save_table(snakemake.output.measurements, rows, **about)
    artifacts.save_table(snakemake.output.arms, arms_table(everything).to_dict("list"), **about)
