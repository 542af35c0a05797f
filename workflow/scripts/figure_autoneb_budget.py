from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import autoneb

    figure = autoneb.budget(
        tables.joined([artifacts.load_table(path) for path in snakemake.input.arms]),
        tables.frame(artifacts.load_table(snakemake.input.methods)),
        tables.frame(artifacts.load_table(snakemake.input.cycles)),
    )
    for path in snakemake.output:
        autoneb.save(figure, path)
