from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.evolution import toys

    params = snakemake.params
    tables = {"guided": toys.guided_table, "quadratic": toys.quadratic_table, "rastrigin": toys.rastrigin_table}
    for name, table in tables.items():
        artifacts.save_table(
            snakemake.output[name], table(params.settings), parameters=params.settings, code=params.code
        )
