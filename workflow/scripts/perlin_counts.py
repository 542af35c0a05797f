from lossatlas import job

with job.start(snakemake):
    from lossatlas import artifacts
    from lossatlas.studies.perlin import common

    parts = {"white": common.white, "correlated": common.correlated, "smooth": common.smooth, "bowls": common.bowls}
    for name, count in parts.items():
        artifacts.save_table(
            snakemake.output[name],
            count(snakemake.params.settings),
            parameters={"settings": snakemake.params.settings},
            code=snakemake.params.code,
        )
