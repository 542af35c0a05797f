from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.composite import toys

    rows, paths = toys.measure(snakemake.params.settings)
    about = {"parameters": snakemake.params.settings, "code": snakemake.params.code}
    artifacts.save_table(snakemake.output.table, rows, **about)
    artifacts.save(snakemake.output.paths, paths, **about)
