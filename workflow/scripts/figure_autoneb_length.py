from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import autoneb

    figure = autoneb.length(
        tables.joined([artifacts.load_table(path) for path in snakemake.input.levels]),
        tables.frame(artifacts.load_table(snakemake.input.arms)).assign(family="budget"),
        snakemake.params.networks,
    )
    for path in snakemake.output:
        autoneb.save(figure, path)
