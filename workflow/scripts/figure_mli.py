from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import mli

    figure = mli.draw(
        tables.joined([artifacts.load_table(path) for path in snakemake.input.runs]),
        tables.frame(artifacts.load_table(snakemake.input.table)),
        {path: artifacts.load(path) for path in snakemake.input.curves},
    )
    for path in snakemake.output:
        mli.save(figure, path)
