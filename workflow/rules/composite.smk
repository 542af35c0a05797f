from lossatlas.studies.composite import plan as composite_plan

try:
    COMPOSITE = composite_plan.jobs(config["composite"])
except LossAtlasError as error:
    raise WorkflowError(str(error)) from None
STUDIES.append("composite")
FIGURES += [
    "composite_success",
    "composite_pictures",
    "composite_weights",
    "composite_toys",
    "composite_powers",
]
COMPOSITE_AUTOENCODERS = [
    name for name, job in COMPOSITE.items() if job["kind"] == "autoencoder"
]
COMPOSITE_CLASSIFIERS = [
    name for name, job in COMPOSITE.items() if job["kind"] == "classifier"
]
COMPOSITE_TOYS = {
    key: config["composite"][key]
    for key in ("cagrad_steps", "desert_members", "desert_starts")
}
COMPOSITE_CODE = code("lossatlas.studies.composite.results")
COMPOSITE_TOYS_CODE = code("lossatlas.studies.composite.toys")
COMPOSITE_FIGURES_CODE = code("lossatlas.figures.composite", "lossatlas.tables")


wildcard_constraints:
    comparison=r"[a-z0-9_]+",


rule composite_comparison:
    output:
        table=f"results/{tier}/composite/runs/{{comparison}}.csv",
        logs=f"results/{tier}/composite/runs/{{comparison}}.npz",
    log:
        f"logs/{tier}/composite_comparison/{{comparison}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        job=lookup(dpath="{comparison}", within=COMPOSITE),
        code=COMPOSITE_CODE,
    message:
        "compare the arms on {wildcards.comparison}"
    script:
        "../scripts/composite_comparison.py"


rule composite_toys:
    output:
        table=f"results/{tier}/composite/toys.csv",
        paths=f"results/{tier}/composite/runs/toys.npz",
    log:
        f"logs/{tier}/composite_toys.log",
    threads: 1
    params:
        settings=COMPOSITE_TOYS,
        code=COMPOSITE_TOYS_CODE,
    message:
        "run the toys of composite"
    script:
        "../scripts/composite_toys.py"


rule composite_measurements:
    input:
        runs=expand(
            "results/{tier}/composite/runs/{name}.csv", tier=tier, name=COMPOSITE
        ),
        logs=expand(
            "results/{tier}/composite/runs/{name}.npz", tier=tier, name=COMPOSITE
        ),
        toys=f"results/{tier}/composite/toys.csv",
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
    output:
        measurements=f"results/{tier}/composite/measurements.csv",
        arms=f"results/{tier}/composite/arms.csv",
    log:
        f"logs/{tier}/composite_measurements.log",
    threads: 1
    params:
        jobs=COMPOSITE,
        settings=COMPOSITE_TOYS,
        runs_code=COMPOSITE_CODE,
        toys_code=COMPOSITE_TOYS_CODE,
        code=code(
            "lossatlas.studies.composite.measurements",
            "lossatlas.studies.composite.arms_table",
            "lossatlas.claims",
            "lossatlas.tables",
        ),
    message:
        "measure the claims of composite"
    script:
        "../scripts/composite_measurements.py"


rule figure_composite_success:
    """Figure: success and shortfall of the autoencoder by arm, and errors of the classifier."""
    input:
        arms=f"results/{tier}/composite/arms.csv",
    output:
        report(
            f"results/{tier}/figures/composite_success.png",
            caption="../report/composite_success.rst",
            category="composite",
        ),
        f"results/{tier}/figures/composite_success.svg",
    log:
        f"logs/{tier}/figure_composite_success.log",
    threads: 1
    params:
        drawing="success",
        code=COMPOSITE_FIGURES_CODE,
    message:
        "draw composite_success"
    script:
        "../scripts/figure_composite.py"


rule figure_composite_pictures:
    """Figure: reconstructions and latent statistics of some arms, as pictures."""
    input:
        logs=expand(
            "results/{tier}/composite/runs/{name}.npz",
            tier=tier,
            name=COMPOSITE_AUTOENCODERS,
        ),
        arms=f"results/{tier}/composite/arms.csv",
    output:
        report(
            f"results/{tier}/figures/composite_pictures.png",
            caption="../report/composite_pictures.rst",
            category="composite",
        ),
        f"results/{tier}/figures/composite_pictures.svg",
    log:
        f"logs/{tier}/figure_composite_pictures.log",
    threads: 1
    params:
        drawing="pictures",
        code=COMPOSITE_FIGURES_CODE,
    message:
        "draw composite_pictures"
    script:
        "../scripts/figure_composite.py"


rule figure_composite_weights:
    """Figure: weights, authority and the effect of re-weighting over training."""
    input:
        logs=f"results/{tier}/composite/runs/{COMPOSITE_AUTOENCODERS[0]}.npz",
    output:
        report(
            f"results/{tier}/figures/composite_weights.png",
            caption="../report/composite_weights.rst",
            category="composite",
        ),
        f"results/{tier}/figures/composite_weights.svg",
    log:
        f"logs/{tier}/figure_composite_weights.log",
    threads: 1
    params:
        drawing="weights",
        code=COMPOSITE_FIGURES_CODE,
    message:
        "draw composite_weights"
    script:
        "../scripts/figure_composite.py"


rule figure_composite_toys:
    """Figure: the failure modes where they can be proved, and CAGrad's toy."""
    input:
        toys=f"results/{tier}/composite/toys.csv",
        paths=f"results/{tier}/composite/runs/toys.npz",
    output:
        report(
            f"results/{tier}/figures/composite_toys.png",
            caption="../report/composite_toys.rst",
            category="composite",
        ),
        f"results/{tier}/figures/composite_toys.svg",
    log:
        f"logs/{tier}/figure_composite_toys.log",
    threads: 1
    params:
        drawing="toys",
        code=COMPOSITE_FIGURES_CODE,
    message:
        "draw composite_toys"
    script:
        "../scripts/figure_composite.py"


rule figure_composite_powers:
    """Figure: the q axis, from unit gradients over the sum to the largest gradient alone."""
    input:
        arms=f"results/{tier}/composite/arms.csv",
    output:
        report(
            f"results/{tier}/figures/composite_powers.png",
            caption="../report/composite_powers.rst",
            category="composite",
        ),
        f"results/{tier}/figures/composite_powers.svg",
    log:
        f"logs/{tier}/figure_composite_powers.log",
    threads: 1
    params:
        drawing="powers",
        code=COMPOSITE_FIGURES_CODE,
    message:
        "draw composite_powers"
    script:
        "../scripts/figure_composite.py"


rule study_composite:
    """Study: composite losses on networks, its figures and its measurements."""
    input:
        f"results/{tier}/composite/measurements.csv",
        [
            f"results/{tier}/figures/{name}.png"
            for name in FIGURES
            if name.startswith("composite_")
        ],
