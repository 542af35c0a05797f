from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import evolution_meta

    table = tables.frame(artifacts.load_table(snakemake.input.table))
    figure = evolution_meta.draw_mnist1d(table)
    for path in snakemake.output:
        evolution_meta.save(figure, path)
