from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import evolution_meta

    rows = tables.joined([artifacts.load_table(path) for path in snakemake.input.curves])
    figure = evolution_meta.draw_comparison(rows)
    for path in snakemake.output:
        evolution_meta.save(figure, path)
