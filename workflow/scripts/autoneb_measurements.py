from lossatlas import job

with job.start(snakemake):
    import pandas as pd

    from lossatlas import artifacts, claims, tables
    from lossatlas.studies.autoneb import measurements

    files, params, out = snakemake.input, snakemake.params, snakemake.output
    tables_of = {
        name: [artifacts.load_table(path, code=params.tables_code) for path in files[name]]
        for name in ("levels", "tree", "arms", "cycles")
    }
    code_of = dict.fromkeys(("controls", "stability"), params.tables_code)
    code_of |= dict.fromkeys(("penalised", "dropped", "ensembles"), params.neighbours_code)
    made_once = {name: tables.frame(artifacts.load_table(files[name], code=code)) for name, code in code_of.items()}
    everything = measurements.Tables(
        levels=tables.joined(tables_of["levels"]),
        tree=tables.joined(tables_of["tree"]),
        arms=tables.joined(tables_of["arms"]),
        cycles=pd.concat([tables.frame(table) for table in tables_of["cycles"]], ignore_index=True),
        surfaces=tables.frame(artifacts.load_table(files.surfaces)),
        settings=params.settings,
        **made_once,
    )
    about = {"parameters": {}, "inputs": [path for path in files if path.endswith("csv")], "code": params.code}
    rows = claims.measurement_rows(measurements.measure(everything), claims.load_ledger("claims"), out.methods)
    artifacts.save_table(out.measurements, rows, **about)
    for path, table in (
        (out.networks, measurements.networks_table(everything)),
        (out.methods, measurements.methods_table(everything)),
        (out.anytime, measurements.anytime(everything)),
    ):
        artifacts.save_table(path, table.to_dict("list"), **about)
