# Unrolled problems and the MNIST-1D table; adds to EVOLUTION_TABLES and FIGURES.
from dataclasses import asdict

from lossatlas.config import beginning_with
from lossatlas.studies.evolution import mnist1d_plan

FIGURES += ["evolution_meta_surface", "evolution_meta", "evolution_mnist1d"]
META = config["evolution"]["meta"]


MNIST1D = mnist1d_plan.ensembles(config["evolution"]["mnist1d"])
BASELINES |= {name: asdict(baseline) for name, baseline in MNIST1D.items()}
META_CODE = code(
    "lossatlas.studies.evolution.meta", "lossatlas.studies.evolution.meta_checks"
)
META_SURFACE_CODE = code("lossatlas.studies.evolution.meta_surface")
MNIST1D_CODE = code("lossatlas.studies.evolution.mnist1d_baselines")
EVOLUTION_TABLES |= {
    f"meta_{name}": (f"results/{tier}/evolution/meta_{name}.csv", table_code)
    for name, table_code in {
        "toys": META_CODE,
        "checks": META_CODE,
        "networks": META_CODE,
        "activations": META_CODE,
        "roughness": META_SURFACE_CODE,
        "explosion": META_SURFACE_CODE,
    }.items()
}
EVOLUTION_TABLES["mnist1d_table"] = (
    f"results/{tier}/evolution/mnist1d_table.csv",
    MNIST1D_CODE,
)


rule evolution_meta_toys:
    output:
        curves=f"results/{tier}/evolution/meta_toys.csv",
        checks=f"results/{tier}/evolution/meta_checks.csv",
    log:
        f"logs/{tier}/evolution_meta_toys.log",
    threads: 1
    params:
        settings=beginning_with(
            META, "seeds", "toy", "backprop", "influence", "lorenz", "repeats"
        ),
        code=META_CODE,
    message:
        "unrolled problems without data"
    script:
        "../scripts/evolution_meta_toys.py"


rule evolution_meta_networks:
    output:
        curves=f"results/{tier}/evolution/meta_networks.csv",
        activations=f"results/{tier}/evolution/meta_activations.csv",
    log:
        f"logs/{tier}/evolution_meta_networks.log",
    threads: 1
    params:
        settings=beginning_with(
            META,
            "data",
            "seeds",
            "learning",
            "notebook",
            "rough",
            "activation",
            "baseline",
        ),
        code=META_CODE,
    message:
        "unrolled trainings of networks"
    script:
        "../scripts/evolution_meta_networks.py"


rule evolution_meta_surface:
    output:
        curves=f"results/{tier}/evolution/surface/curves.npz",
        roughness=f"results/{tier}/evolution/meta_roughness.csv",
        explosion=f"results/{tier}/evolution/meta_explosion.csv",
    log:
        f"logs/{tier}/evolution_meta_surface.log",
    threads: 1
    params:
        settings=beginning_with(META, "data", "unrolls", "explosion", "surface"),
        code=META_SURFACE_CODE,
    message:
        "the outer surface against the length of the unroll"
    script:
        "../scripts/evolution_meta_surface.py"


rule evolution_mnist1d:
    input:
        expand("results/{tier}/baselines/{ensemble}.npz", tier=tier, ensemble=MNIST1D),
    output:
        f"results/{tier}/evolution/mnist1d_table.csv",
    log:
        f"logs/{tier}/evolution_mnist1d.log",
    threads: 1
    params:
        baselines={name: BASELINES[name] for name in MNIST1D},
        training_code=TRAINING_CODE,
        code=MNIST1D_CODE,
    message:
        "accuracies of the MNIST-1D table"
    script:
        "../scripts/evolution_mnist1d.py"


rule figure_evolution_meta_surface:
    """Figure: the outer surface raw and smoothed, and its gradient, against the length of the unroll."""
    input:
        curves=f"results/{tier}/evolution/surface/curves.npz",
        explosion=f"results/{tier}/evolution/meta_explosion.csv",
    output:
        report(
            f"results/{tier}/figures/evolution_meta_surface.png",
            caption="../report/evolution_meta_surface.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_meta_surface.svg",
    log:
        f"logs/{tier}/figure_evolution_meta_surface.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution_meta", "lossatlas.tables"),
    message:
        "draw evolution_meta_surface"
    script:
        "../scripts/figure_evolution_meta_surface.py"


rule figure_evolution_meta:
    """Figure: what the estimators reach on six unrolled problems, against inner steps."""
    input:
        curves=[
            f"results/{tier}/evolution/meta_toys.csv",
            f"results/{tier}/evolution/meta_networks.csv",
        ],
    output:
        report(
            f"results/{tier}/figures/evolution_meta.png",
            caption="../report/evolution_meta.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_meta.svg",
    log:
        f"logs/{tier}/figure_evolution_meta.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution_meta", "lossatlas.tables"),
    message:
        "draw evolution_meta"
    script:
        "../scripts/figure_evolution_meta.py"


rule figure_evolution_mnist1d:
    """Figure: the MNIST-1D table with published and measured accuracies."""
    input:
        table=f"results/{tier}/evolution/mnist1d_table.csv",
    output:
        report(
            f"results/{tier}/figures/evolution_mnist1d.png",
            caption="../report/evolution_mnist1d.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_mnist1d.svg",
    log:
        f"logs/{tier}/figure_evolution_mnist1d.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution_meta", "lossatlas.tables"),
    message:
        "draw evolution_mnist1d"
    script:
        "../scripts/figure_evolution_mnist1d.py"
