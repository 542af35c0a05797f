from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device
    from lossatlas.studies.perlin import densities

    artifacts.save_table(
        snakemake.output[0],
        densities.measure(
            snakemake.wildcards.kind, snakemake.params.settings, device.resolve(snakemake.config["device"])
        ),
        parameters={"settings": snakemake.params.settings},
        code=snakemake.params.code,
    )
