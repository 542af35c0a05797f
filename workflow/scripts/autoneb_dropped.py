from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device, progress
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import dropped
    from lossatlas.studies.settings import Baseline

    params, config, out = snakemake.params, snakemake.config, snakemake.output
    baseline = Baseline.from_parameters(params.baseline)
    about = {
        "parameters": {"baseline": params.baseline, "settings": params.settings},
        "inputs": snakemake.input,
        "code": params.code,
    }
    rows, profiles = dropped.measure(
        baseline,
        baselines.data_set(baseline, config["data_dir"], config["download"]),
        params.settings,
        device.resolve(config["device"]),
        progress.meter("dropped networks"),
    )
    artifacts.save_table(out.table, rows, **about)
    artifacts.save(out.profiles, profiles, **about)
