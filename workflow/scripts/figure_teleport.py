from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, tables
    from lossatlas.figures import teleport
    from lossatlas.figures.style import save

    found = {path: Path(path) for path in snakemake.input}
    figure = teleport.DRAW[snakemake.params.panel](
        {p.stem: tables.frame(artifacts.load_table(path)) for path, p in found.items() if p.suffix == ".csv"},
        {p.stem: artifacts.load(path) for path, p in found.items() if p.suffix == ".npz"},
    )
    for path in snakemake.output:
        save(figure, path)
