from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, data, progress
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies.evolution import classification

    settings = {**snakemake.params.settings, **snakemake.params.set}
    name = snakemake.wildcards.data
    table = classification.run(
        name,
        data.load(name, snakemake.config["data_dir"], download=snakemake.config["download"]),
        settings,
        store=Checkpoint(path, settings, snakemake.params.code),
        progress=progress.meter(name),
    )
    artifacts.save_table(snakemake.output[0], table, parameters=settings, code=snakemake.params.code)
