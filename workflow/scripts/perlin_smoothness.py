from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.perlin import smoothness

    settings = snakemake.params.settings
    about = {"parameters": {"settings": settings}, "code": snakemake.params.code}
    artifacts.save_table(snakemake.output.table, smoothness.measure(settings), **about)
    artifacts.save(snakemake.output.gallery, smoothness.gallery(settings), **about)
