from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device
    from lossatlas.studies import baselines
    from lossatlas.studies.mli import controls
    from lossatlas.studies.settings import Baseline

    baseline = Baseline.from_parameters(snakemake.params.baseline)
    training = artifacts.load(
        snakemake.input[0], parameters=snakemake.params.baseline, code=snakemake.params.training_code
    )
    rows = controls.measure(
        snakemake.params.arms,
        baseline,
        training,
        baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"]),
        snakemake.params.settings,
        device.resolve(snakemake.config["device"]),
    )
    artifacts.save_table(
        snakemake.output[0],
        rows,
        parameters={
            "baseline": snakemake.params.baseline,
            "arms": snakemake.params.arms,
            "settings": snakemake.params.settings,
        },
        inputs=snakemake.input,
        code=snakemake.params.code,
    )
