from lossatlas import job

with job.start(snakemake):
    from pathlib import Path

    from lossatlas import artifacts, claims, tables
    from lossatlas.studies.perlin.measurements import arrivals, common_minima, evidence, harmony, measure, stalling

    params, inputs, output = snakemake.params, snakemake.input, snakemake.output

    def read(path, settings, code):
        return tables.frame(artifacts.load_table(path, parameters={"settings": settings}, code=code))

    counts = {name: inputs[name] for name in ("white", "correlated", "smooth", "bowls")}
    everything = evidence.Tables(
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
        {
            name: read(inputs[f"harmony_{name}"], params.harmony, params.harmony_code)
            for name in ("densities", "descents")
        },
    )
    used = [*counts.values(), *inputs.densities, inputs.smoothness, *inputs.descents]
    used += [inputs.harmony_densities, inputs.harmony_descents]
    about = {"parameters": {}, "inputs": used, "code": params.code}
    rows = claims.measurement_rows(measure(everything), claims.load_ledger("claims"), output.measurements)
    artifacts.save_table(output.measurements, rows, **about)
    summaries = {
        "rates": common_minima.rates,
        "ratios": stalling.ratios,
        "limits": stalling.limits,
        "success": arrivals.success,
        "harmony": harmony.summary,
    }
    for name, summary in summaries.items():
        artifacts.save_table(output[name], summary(everything).to_dict("list"), **about)
