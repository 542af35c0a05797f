from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, device, progress
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import exploration
    from lossatlas.studies.settings import Baseline

    params = snakemake.params
    baseline = Baseline.from_parameters(params.baseline)
    about = {
        "parameters": {"baseline": params.baseline, "settings": params.settings},
        "inputs": [snakemake.input.minima, *snakemake.input.former, *snakemake.input.paths],
        "code": params.code,
    }
    same = {"parameters": about["parameters"], "code": params.code}
    former = [row for table in snakemake.input.former for row in artifacts.rows(artifacts.load_table(table, **same))]
    paths = {name: pivots for file in snakemake.input.paths for name, pivots in artifacts.load(file, **same).items()}
    rows, pivots = exploration.measure(
        baseline,
        artifacts.load(snakemake.input.minima, parameters=params.baseline, code=params.training_code),
        baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"]),
        params.settings,
        former,
        paths,
        int(snakemake.wildcards.round),
        int(snakemake.wildcards.part),
        device.resolve(snakemake.config["device"]),
        progress.meter(f"round {snakemake.wildcards.round}"),
        Checkpoint(path, **same),
    )
    artifacts.save_table(snakemake.output.table, rows, **about)
    artifacts.save(snakemake.output.paths, {name: pivot.cpu() for name, pivot in pivots.items()}, **about)
