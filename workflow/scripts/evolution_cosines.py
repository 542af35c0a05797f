from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, data
    from lossatlas.studies.evolution import cosines

    params = snakemake.params
    table = cosines.table(data.load("digits"), params.settings)
    artifacts.save_table(snakemake.output[0], table, parameters=params.settings, code=params.code)
