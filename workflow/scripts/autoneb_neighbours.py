from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device, progress
    from lossatlas.studies import baselines
    from lossatlas.studies.autoneb import dropped, ensembles, penalised
    from lossatlas.studies.settings import Baseline

    params, config, out = snakemake.params, snakemake.config, snakemake.output
    where = device.resolve(config["device"])
    about = {
        "parameters": {"baselines": params.baselines, "settings": params.settings},
        "inputs": snakemake.input,
        "code": params.code,
    }

    def measured(part, name):
        baseline = Baseline.from_parameters(params.baselines[name])
        data_set = baselines.data_set(baseline, config["data_dir"], config["download"])
        return part.measure(baseline, data_set, params.settings[name], where, progress.meter(name))

    artifacts.save_table(out.penalised, measured(penalised, "penalised"), **about)
    rows, profiles = measured(dropped, "dropped")
    artifacts.save_table(out.dropped, rows, **about)
    artifacts.save(out.profiles, profiles, **about)
    artifacts.save_table(out.ensembles, measured(ensembles, "ensembles"), **about)
