from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import autoneb

    bands = tables.joined([artifacts.load_table(path) for path in snakemake.input.bands])
    figure = autoneb.tree(bands, tables.frame(artifacts.load_table(snakemake.input.anytime)))
    for path in snakemake.output:
        autoneb.save(figure, path)
