from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device
    from lossatlas.studies.perlin import smoothness

    settings, where = snakemake.params.settings, device.resolve(snakemake.config["device"])
    about = {"parameters": {"settings": settings}, "code": snakemake.params.code}
    artifacts.save_table(snakemake.output.table, smoothness.measure(settings, where), **about)
    artifacts.save(snakemake.output.gallery, smoothness.gallery(settings, where), **about)
