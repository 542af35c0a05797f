from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, tables
    from lossatlas.figures import composite

    found = {}
    for path in snakemake.input:
        load = artifacts.load if path.endswith(".npz") else artifacts.load_table
        found[Path(path).stem if path.endswith(".npz") else f"{Path(path).stem} table"] = load(path)
    frames = {name: tables.frame(a) if name.endswith(" table") else a for name, a in found.items()}
    figure = composite.DRAWINGS[snakemake.params.drawing](frames)
    for path in snakemake.output:
        composite.save(figure, path)
