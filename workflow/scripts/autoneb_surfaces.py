from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.autoneb import surfaces

    artifacts.save_table(snakemake.output[0], surfaces.measure(), parameters={}, code=snakemake.params.code)
