from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device, progress
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import controls, stability
    from lossatlas.studies.settings import Baseline

    params = snakemake.params
    baseline, stable = (Baseline.from_parameters(p) for p in (params.baseline, params.stable_baseline))
    training = artifacts.load(snakemake.input[0], parameters=params.baseline, code=params.training_code)
    where = device.resolve(snakemake.config["device"])
    about = {
        "parameters": {"baselines": [params.baseline, params.stable_baseline], "settings": params.settings},
        "inputs": snakemake.input,
        "code": params.code,
    }

    def data(of):
        return baselines.data_set(of, snakemake.config["data_dir"], snakemake.config["download"])

    rows = controls.measure(baseline, training, data(baseline), params.settings, where, progress.meter("copies"))
    artifacts.save_table(snakemake.output.controls, rows, **about)
    rows = stability.measure(stable, data(stable), params.settings, where, progress.meter("children"))
    artifacts.save_table(snakemake.output.stability, rows, **about)
