from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device
    from lossatlas.studies.perlin import harmony

    settings = snakemake.params.settings
    about = {"parameters": {"settings": settings}, "code": snakemake.params.code}
    densities, descents = harmony.measure(settings, device.resolve(snakemake.config["device"]))
    artifacts.save_table(snakemake.output.densities, densities, **about)
    artifacts.save_table(snakemake.output.descents, descents, **about)
