from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, tables
    from lossatlas.figures import autoneb

    files = snakemake.input
    penalised, ensembles = (tables.frame(artifacts.load_table(files[name])) for name in ("penalised", "ensembles"))
    figure = autoneb.neighbours(artifacts.load(files.profiles), penalised, ensembles)
    for path in snakemake.output:
        autoneb.save(figure, path)
