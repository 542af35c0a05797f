from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, claims, tables
    from lossatlas.studies.perlin import measurements

    params, inputs, output = snakemake.params, snakemake.input, snakemake.output

    def read(path, settings, code):
        return tables.frame(artifacts.load_table(path, parameters={"settings": settings}, code=code))

    counts = {name: inputs[name] for name in ("white", "correlated", "smooth", "bowls")}
    everything = measurements.Tables(
        {name: read(path, params.counts, params.counts_code) for name, path in counts.items()},
        {
            Path(path).stem: read(path, params.densities[Path(path).stem], params.densities_code)
            for path in inputs.densities
        },
        read(inputs.smoothness, params.smoothness, params.smoothness_code),
        {
            Path(path).stem: read(path, params.descents[Path(path).stem], params.descents_code)
            for path in inputs.descents
        },
    )
    used = [*counts.values(), *inputs.densities, inputs.smoothness, *inputs.descents]
    about = {"parameters": {}, "inputs": used, "code": params.code}
    rows = claims.measurement_rows(measurements.measure(everything), claims.load_ledger("claims"), output.measurements)
    artifacts.save_table(output.measurements, rows, **about)
    for name in ("rates", "ratios", "limits", "success"):
        table = getattr(measurements, name)(everything)
        artifacts.save_table(output[name], table.to_dict("list"), **about)
