from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, data
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies.evolution import meta

    settings = snakemake.params.settings
    about = {"parameters": {"settings": settings}, "code": snakemake.params.code}
    seeds, name = settings["seeds"], settings["data"]
    small = data.load(name, snakemake.config["data_dir"], download=snakemake.config["download"])
    large = data.mnist1d(settings["activation_rows"]) if name == "mnist1d" else small
    found = meta.in_turn(
        {
            "learning_rate": lambda: meta.learning_rate(small, settings, seeds),
            "rough": lambda: meta.rough(small, settings, seeds),
            "activation": lambda: meta.activation(large, settings, seeds),
            "baselines": lambda: meta.activation_baselines(large, 128, settings["baseline_unroll"], seeds),
        },
        Checkpoint(path, {"settings": settings}, snakemake.params.code),
    )
    artifacts.save_table(snakemake.output.activations, found.pop("baselines"), **about)
    artifacts.save_table(snakemake.output.curves, [row for rows in found.values() for row in rows], **about)
