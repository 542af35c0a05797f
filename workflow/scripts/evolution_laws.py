from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.evolution import laws

    params = snakemake.params
    tables = {
        "sampling": laws.sampling_table,
        "expectation": laws.expectation_table,
        "memory": laws.memory_table,
        "guide": laws.guide_table,
    }
    for name, table in tables.items():
        artifacts.save_table(
            snakemake.output[name], table(params.settings), parameters=params.settings, code=params.code
        )
