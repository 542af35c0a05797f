from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import autoneb

    figure = autoneb.levels(tables.frame(artifacts.load_table(snakemake.input[0])))
    for path in snakemake.output:
        autoneb.save(figure, path)
