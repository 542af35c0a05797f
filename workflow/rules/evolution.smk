STUDIES.append("evolution")
FIGURES += [
    "evolution_sampling",
    "evolution_toys",
    "evolution_curves",
    "evolution_cosines",
    "evolution_landscapes",
]
EVOLUTION = config["evolution"]
EVOLUTION_SETS = {entry["data"]: entry for entry in EVOLUTION["curves"]["sets"]}
EVOLUTION_LAWS_CODE = code("lossatlas.studies.evolution.laws")
EVOLUTION_TOYS_CODE = code("lossatlas.studies.evolution.toys")
EVOLUTION_CURVES_CODE = code("lossatlas.studies.evolution.classification")
EVOLUTION_COSINES_CODE = code("lossatlas.studies.evolution.cosines")
EVOLUTION_LANDSCAPES_CODE = code("lossatlas.studies.evolution.shared_landscapes")
EVOLUTION_LAWS = ("sampling", "expectation", "memory", "guide")
EVOLUTION_TOYS = ("guided", "quadratic", "rastrigin")
# Tables that the claims are measured from: {name: (path, hash of the code that makes it)}.
EVOLUTION_TABLES = {
    **{
        name: (f"results/{tier}/evolution/{name}.csv", EVOLUTION_LAWS_CODE)
        for name in EVOLUTION_LAWS
    },
    **{
        name: (f"results/{tier}/evolution/{name}.csv", EVOLUTION_TOYS_CODE)
        for name in EVOLUTION_TOYS
    },
    **{
        f"curves_{name}": (
            f"results/{tier}/evolution/curves_{name}.csv",
            EVOLUTION_CURVES_CODE,
        )
        for name in EVOLUTION_SETS
    },
    "cosines": (f"results/{tier}/evolution/cosines.csv", EVOLUTION_COSINES_CODE),
    "landscapes": (
        f"results/{tier}/evolution/landscapes.csv",
        EVOLUTION_LANDSCAPES_CODE,
    ),
}


rule evolution_laws:
    output:
        **{name: f"results/{tier}/evolution/{name}.csv" for name in EVOLUTION_LAWS},
    log:
        f"logs/{tier}/evolution_laws.log",
    threads: 1
    params:
        settings=EVOLUTION["laws"],
        code=EVOLUTION_LAWS_CODE,
    message:
        "single estimates against their laws"
    script:
        "../scripts/evolution_laws.py"


rule evolution_toys:
    output:
        **{name: f"results/{tier}/evolution/{name}.csv" for name in EVOLUTION_TOYS},
    log:
        f"logs/{tier}/evolution_toys.log",
    threads: 1
    params:
        settings=EVOLUTION["toys"],
        code=EVOLUTION_TOYS_CODE,
    message:
        "least squares and Rastrigin"
    script:
        "../scripts/evolution_toys.py"


rule evolution_curves:
    output:
        f"results/{tier}/evolution/curves_{{data}}.csv",
    log:
        f"logs/{tier}/evolution_curves/{{data}}.log",
    threads: 1
    params:
        set=lookup(dpath="{data}", within=EVOLUTION_SETS),
        settings={
            key: value for key, value in EVOLUTION["curves"].items() if key != "sets"
        },
        code=EVOLUTION_CURVES_CODE,
    message:
        "classify {wildcards.data} by evolution strategies"
    script:
        "../scripts/evolution_curves.py"


rule evolution_cosines:
    output:
        f"results/{tier}/evolution/cosines.csv",
    log:
        f"logs/{tier}/evolution_cosines.log",
    threads: 1
    params:
        settings=EVOLUTION["cosines"],
        code=EVOLUTION_COSINES_CODE,
    message:
        "cosines of the published network"
    script:
        "../scripts/evolution_cosines.py"


rule evolution_landscapes:
    output:
        f"results/{tier}/evolution/landscapes.csv",
    log:
        f"logs/{tier}/evolution_landscapes.log",
    threads: 1
    params:
        settings=EVOLUTION["landscapes"],
        code=EVOLUTION_LANDSCAPES_CODE,
    message:
        "smoothing, teleports and composites on the same landscapes"
    script:
        "../scripts/evolution_landscapes.py"


rule figure_evolution_sampling:
    """Figure: which sampling of an evolution strategy is worth more, and when (laws and gain)."""
    input:
        **{
            name: f"results/{tier}/evolution/{name}.csv"
            for name in ("sampling", "memory", "guide")
        },
    output:
        report(
            f"results/{tier}/figures/evolution_sampling.png",
            caption="../report/evolution_sampling.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_sampling.svg",
    log:
        f"logs/{tier}/figure_evolution_sampling.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution", "lossatlas.tables"),
    message:
        "draw evolution_sampling"
    script:
        "../scripts/figure_evolution.py"


rule figure_evolution_toys:
    """Figure: evolution strategies on least squares and on the Rastrigin function."""
    input:
        **{name: f"results/{tier}/evolution/{name}.csv" for name in EVOLUTION_TOYS},
    output:
        report(
            f"results/{tier}/figures/evolution_toys.png",
            caption="../report/evolution_toys.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_toys.svg",
    log:
        f"logs/{tier}/figure_evolution_toys.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution", "lossatlas.tables"),
    message:
        "draw evolution_toys"
    script:
        "../scripts/figure_evolution.py"


rule figure_evolution_curves:
    """Figure: accuracy by evolution strategies against steps and against forward passes."""
    input:
        [f"results/{tier}/evolution/curves_{name}.csv" for name in EVOLUTION_SETS],
    output:
        report(
            f"results/{tier}/figures/evolution_curves.png",
            caption="../report/evolution_curves.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_curves.svg",
    log:
        f"logs/{tier}/figure_evolution_curves.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution", "lossatlas.tables"),
    message:
        "draw evolution_curves"
    script:
        "../scripts/figure_evolution.py"


rule figure_evolution_cosines:
    """Figure: cosines of estimates, their laws, and those published with evostrats."""
    input:
        curves=[
            f"results/{tier}/evolution/curves_{name}.csv" for name in EVOLUTION_SETS
        ],
        cosines=f"results/{tier}/evolution/cosines.csv",
    output:
        report(
            f"results/{tier}/figures/evolution_cosines.png",
            caption="../report/evolution_cosines.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_cosines.svg",
    log:
        f"logs/{tier}/figure_evolution_cosines.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution", "lossatlas.tables"),
    message:
        "draw evolution_cosines"
    script:
        "../scripts/figure_evolution.py"


rule figure_evolution_landscapes:
    """Figure: smoothing, teleports and composites on the same Perlin landscapes at equal evaluations."""
    input:
        f"results/{tier}/evolution/landscapes.csv",
    output:
        report(
            f"results/{tier}/figures/evolution_landscapes.png",
            caption="../report/evolution_landscapes.rst",
            category="evolution",
        ),
        f"results/{tier}/figures/evolution_landscapes.svg",
    log:
        f"logs/{tier}/figure_evolution_landscapes.log",
    threads: 1
    params:
        code=code("lossatlas.figures.evolution_landscapes", "lossatlas.tables"),
    message:
        "draw evolution_landscapes"
    script:
        "../scripts/figure_evolution_landscapes.py"
