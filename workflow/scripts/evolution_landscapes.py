from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.evolution import shared_landscapes

    params = snakemake.params
    table = shared_landscapes.table(params.settings)
    artifacts.save_table(snakemake.output[0], table, parameters=params.settings, code=params.code)
