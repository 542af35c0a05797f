from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.teleport import runs

    params = snakemake.params
    table, arrays = runs.run(
        snakemake.wildcards.experiment,
        params.settings,
        snakemake.config["data_dir"],
        snakemake.config["download"],
    )
    about = {"parameters": params.settings, "code": params.code}
    artifacts.save_table(snakemake.output.table, table, **about)
    artifacts.save(snakemake.output.arrays, {name: array.cpu() for name, array in arrays.items()}, **about)
