from lossatlas import job

with job.start(snakemake):
    from lossatlas import claims, progress
    from lossatlas.errors import LossAtlasError

    rows = claims.read_csv(snakemake.input.csv)
    lost = claims.compare(rows, claims.read_csv(snakemake.params.reference))
    if lost:
        raise LossAtlasError("differs from " + "\n  ".join([f"{snakemake.params.reference}:", *lost]))
    progress.say(f"no judged row differs from {snakemake.params.reference}")
