from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, device, progress
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies import baselines
    from lossatlas.studies.settings import Baseline

    baseline = Baseline.from_parameters(snakemake.params.baseline)
    training = baselines.run(
        baseline,
        baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"]),
        device.resolve(snakemake.config["device"]),
        store=Checkpoint(path, snakemake.params.baseline, snakemake.params.code),
        progress=progress.meter(snakemake.wildcards.ensemble),
    )
    artifacts.save(
        snakemake.output[0],
        {name: getattr(training, name).cpu() for name in ("initial", "final", "losses", "diverged_at")},
        parameters=snakemake.params.baseline,
        code=snakemake.params.code,
    )
