from lossatlas import job

with job.start(snakemake) as path:
    from lossatlas import artifacts
    from lossatlas.checkpoint import Checkpoint
    from lossatlas.studies.evolution import meta, meta_checks

    settings = snakemake.params.settings
    about = {"parameters": {"settings": settings}, "code": snakemake.params.code}
    seeds = settings["seeds"]
    found = meta.in_turn(
        {
            "toy": lambda: meta.toy(settings, seeds),
            "influence": lambda: meta.influence(settings, seeds),
            "lorenz": lambda: meta.lorenz(settings, seeds),
            "checks": lambda: meta_checks.checks(settings),
        },
        Checkpoint(path, {"settings": settings}, snakemake.params.code),
    )
    artifacts.save_table(snakemake.output.checks, found.pop("checks"), **about)
    artifacts.save_table(snakemake.output.curves, [row for rows in found.values() for row in rows], **about)
