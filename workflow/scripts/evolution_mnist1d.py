from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, device
    from lossatlas.studies import baselines
    from lossatlas.studies.evolution import mnist1d_baselines
    from lossatlas.studies.settings import Baseline

    rows, data_set = [], None
    for path in snakemake.input:
        settings = snakemake.params.baselines[Path(path).stem]
        baseline = Baseline.from_parameters(settings)
        if data_set is None:  # all have one
            data_set = baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"])
        training = artifacts.load(path, parameters=settings, code=snakemake.params.training_code)
        rows += mnist1d_baselines.score(baseline, training, data_set, device.resolve(snakemake.config["device"]))
    artifacts.save_table(
        snakemake.output[0],
        rows,
        parameters={"baselines": snakemake.params.baselines},
        inputs=snakemake.input,
        code=snakemake.params.code,
    )
