from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.figures import autoneb

    figure = autoneb.cycles(artifacts.load(snakemake.input[0]))
    for path in snakemake.output:
        autoneb.save(figure, path)
