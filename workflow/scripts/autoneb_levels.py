from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, device, progress
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import levels
    from lossatlas.studies.settings import Baseline

    params = snakemake.params
    baseline = Baseline.from_parameters(params.baseline)
    about = {
        "parameters": {"baseline": params.baseline, "settings": params.settings},
        "inputs": snakemake.input,
        "code": params.code,
    }
    found = levels.measure(
        baseline,
        artifacts.load(snakemake.input[0], parameters=params.baseline, code=params.training_code),
        baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"]),
        params.settings,
        device.resolve(snakemake.config["device"]),
        progress.meter(snakemake.wildcards.ensemble),
        Checkpoint(path, about["parameters"], params.code),
    )
    artifacts.save_table(snakemake.output.table, found.rows, **about)
    artifacts.save(snakemake.output.profiles, found.arrays, **about)
