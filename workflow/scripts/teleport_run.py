from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts
    from lossatlas.studies.teleport import runs

    config, params, output = snakemake.config, snakemake.params, snakemake.output
    for settings, path, arrays_path in zip(params.settings, output.tables, output.arrays, strict=True):
        table, arrays = runs.run(Path(path).stem, settings, config["data_dir"], config["download"])
        about = {"parameters": settings, "code": params.code}
        artifacts.save_table(path, table, **about)
        artifacts.save(arrays_path, {name: array.cpu() for name, array in arrays.items()}, **about)
