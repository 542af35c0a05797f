from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import evolution_meta

    explosion = tables.frame(artifacts.load_table(snakemake.input.explosion))
    figure = evolution_meta.draw_surface(artifacts.load(snakemake.input.curves), explosion)
    for path in snakemake.output:
        evolution_meta.save(figure, path)
