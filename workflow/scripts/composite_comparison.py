from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts, device, progress
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies.composite import comparison, results

    settings = snakemake.params.job
    on = device.resolve(snakemake.config["device"])
    task = results.task(settings, snakemake.config["data_dir"], snakemake.config["download"], on)
    outcomes = comparison.run(
        task,
        results.with_arms(settings),
        on,
        store=Checkpoint(path, settings, snakemake.params.code),
        progress=progress.meter(snakemake.wildcards.comparison),
    )
    bands = progress.meter(f"{snakemake.wildcards.comparison}, bands")
    about = {"parameters": settings, "code": snakemake.params.code}
    artifacts.save_table(snakemake.output.table, results.rows(task, outcomes), **about)
    artifacts.save(snakemake.output.logs, results.arrays(task, outcomes, bands), **about)
