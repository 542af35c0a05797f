from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device, progress
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import ensembles, penalised
    from lossatlas.studies.settings import Baseline

    params, config, neighbour = snakemake.params, snakemake.config, snakemake.wildcards.neighbour
    baseline = Baseline.from_parameters(params.baseline)
    about = {
        "parameters": {"baseline": params.baseline, "settings": params.settings},
        "inputs": snakemake.input,
        "code": params.code,
    }
    rows = {"ensembles": ensembles, "penalised": penalised}[neighbour].measure(
        baseline,
        baselines.data_set(baseline, config["data_dir"], config["download"]),
        params.settings,
        device.resolve(config["device"]),
        progress.meter(neighbour),
    )
    artifacts.save_table(snakemake.output[0], rows, **about)
