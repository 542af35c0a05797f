from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device
    from lossatlas.studies import baselines
    from lossatlas.studies.mli import runs
    from lossatlas.studies.settings import Baseline

    baseline = Baseline.from_parameters(snakemake.params.baseline)
    training = artifacts.load(
        snakemake.input[0], parameters=snakemake.params.baseline, code=snakemake.params.training_code
    )
    table, curves = runs.measure(
        baseline,
        training,
        baselines.data_set(baseline, snakemake.config["data_dir"], snakemake.config["download"]),
        snakemake.params.settings,
        device.resolve(snakemake.config["device"]),
    )
    about = {
        "parameters": {"baseline": snakemake.params.baseline, "settings": snakemake.params.settings},
        "inputs": snakemake.input,
        "code": snakemake.params.code,
    }
    artifacts.save_table(snakemake.output.table, table, **about)
    artifacts.save(snakemake.output.curves, {name: curve.cpu() for name, curve in curves.items()}, **about)
