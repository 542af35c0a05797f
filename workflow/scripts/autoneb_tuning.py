from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, device, progress
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import comparison
    from lossatlas.studies.settings import Baseline

    params = snakemake.params
    baseline = Baseline.from_parameters(params.baseline)
    setting = comparison.Setting.of(
        baseline,
        artifacts.load(snakemake.input[0], parameters=params.baseline, code=params.training_code),
        baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"]),
        params.settings,
        device.resolve(snakemake.config["device"]),
    )
    parameters = {"baseline": params.baseline, "settings": params.settings}
    rows = comparison.tune(setting, progress.meter("tuned arms"), Checkpoint(path, parameters, params.code))
    artifacts.save_table(snakemake.output[0], rows, parameters=parameters, inputs=snakemake.input, code=params.code)
