from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, data
    from lossatlas.studies.evolution import meta_surface

    settings = snakemake.params.settings
    about = {"parameters": {"settings": settings}, "code": snakemake.params.code}
    data_set = data.load(settings["data"], snakemake.config["data_dir"], download=snakemake.config["download"])
    curves = {name: value.numpy() for name, value in meta_surface.curves(data_set, settings).items()}
    artifacts.save(snakemake.output.curves, curves, **about)
    artifacts.save_table(snakemake.output.roughness, meta_surface.roughness(curves), **about)
    artifacts.save_table(snakemake.output.explosion, meta_surface.explosion(data_set, settings), **about)
