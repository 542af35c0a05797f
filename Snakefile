"""Loss Atlas: what six sources say about rough loss landscapes, and whether it holds.

Targets: snakemake --list-target-rules. Settings: config/README.md. Everything: snakemake --cores all
"""

from snakemake.utils import min_version

min_version("9.20")


container: "docker://python:3.11-slim"


configfile: "config/default.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/baselines.smk"
include: "workflow/rules/mli.smk"
include: "workflow/rules/autoneb.smk"
include: "workflow/rules/teleport.smk"
include: "workflow/rules/evolution.smk"
include: "workflow/rules/evolution_meta.smk"
include: "workflow/rules/evolution_measurements.smk"
include: "workflow/rules/perlin.smk"
include: "workflow/rules/composite.smk"
include: "workflow/rules/claims.smk"


rule all:
    """Every study of the tier, its figures, and the table of claims."""
    default_target: True
    input:
        rules.claims.output,
        rules.report.output,


onstart:
    take_the_run()
    print(cost_line(workflow, config), flush=True)


onsuccess:
    print(done_line(config), flush=True)


onerror:
    print(failure_lines(log), flush=True)
