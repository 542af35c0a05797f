from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, device, progress
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import comparison
    from lossatlas.studies.settings import Baseline

    params, family = snakemake.params, snakemake.wildcards.family
    baseline = Baseline.from_parameters(params.baseline)
    setting = comparison.Setting.of(
        baseline,
        artifacts.load(snakemake.input.minima, parameters=params.baseline, code=params.training_code),
        baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"]),
        params.settings,
        device.resolve(snakemake.config["device"]),
    )
    tuning = artifacts.rows(artifacts.load_table(snakemake.input.tuning, code=params.code))
    about = {
        "parameters": {"baseline": params.baseline, "settings": params.settings},
        "inputs": snakemake.input,
        "code": params.code,
    }
    meter, store = progress.meter(f"arms of {family}"), Checkpoint(path, about["parameters"], params.code)
    found = comparison.measure(family, setting, comparison.best_rates(tuning), meter, store)
    artifacts.save_table(snakemake.output.table, found.rows, **about)
    artifacts.save_table(snakemake.output.cycles, found.cycles, **about)
    artifacts.save(snakemake.output.profiles, found.arrays, **about)
