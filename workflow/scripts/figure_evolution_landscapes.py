from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import evolution_landscapes, style

    figure = evolution_landscapes.draw(tables.frame(artifacts.load_table(snakemake.input[0])))
    for path in snakemake.output:
        style.save(figure, path)
