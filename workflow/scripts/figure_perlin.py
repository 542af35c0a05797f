from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import perlin

    read = {
        name: artifacts.load(path) if path.endswith(".npz") else tables.frame(artifacts.load_table(path))
        for name, path in snakemake.input.items()
    }
    figure = getattr(perlin, snakemake.rule.removeprefix("figure_perlin_"))(**read)
    for path in snakemake.output:
        perlin.save(figure, path)
