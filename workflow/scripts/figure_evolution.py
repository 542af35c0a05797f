from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, tables
    from lossatlas.figures import evolution

    frames = {Path(path).stem: tables.frame(artifacts.load_table(path)) for path in snakemake.input}
    figure = evolution.DRAW[snakemake.rule.removeprefix("figure_")](frames)
    for path in snakemake.output:
        evolution.save(figure, path)
