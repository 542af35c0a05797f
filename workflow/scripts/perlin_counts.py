from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts, device
    from lossatlas.studies.perlin import common

    where = device.resolve(snakemake.config["device"])
    parts = {"white": common.white, "correlated": common.correlated, "smooth": common.smooth, "bowls": common.bowls}
    for name, count in parts.items():
        artifacts.save_table(
            snakemake.output[name],
            count(snakemake.params.settings, where),
            parameters={"settings": snakemake.params.settings},
            code=snakemake.params.code,
        )
