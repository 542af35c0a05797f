from lossatlas.studies.perlin import plan as perlin_plan

try:
    PERLIN_DENSITIES = perlin_plan.densities(config["perlin"])
    PERLIN_DESCENTS = perlin_plan.descents(config["perlin"])
    PERLIN_HARMONY = perlin_plan.harmony(config["perlin"])
except LossAtlasError as error:
    raise WorkflowError(str(error)) from None
STUDIES.append("perlin")
FIGURES += [
    "perlin_gallery",
    "perlin_rates",
    "perlin_densities",
    "perlin_success",
    "perlin_failures",
    "perlin_harmony",
]
PERLIN_COUNTS = perlin_plan.counts(config["perlin"])
PERLIN_SMOOTHNESS = perlin_plan.smoothness(config["perlin"])
PERLIN_COUNTS_CODE = code("lossatlas.studies.perlin.common")
PERLIN_DENSITIES_CODE = code("lossatlas.studies.perlin.densities")
PERLIN_SMOOTHNESS_CODE = code("lossatlas.studies.perlin.smoothness")
PERLIN_DESCENTS_CODE = code("lossatlas.studies.perlin.descents")
PERLIN_HARMONY_CODE = code("lossatlas.studies.perlin.harmony")
PERLIN_FIGURES_CODE = code("lossatlas.figures.perlin", "lossatlas.tables")
PERLIN = f"results/{tier}/perlin"


rule perlin_counts:
    output:
        white=f"{PERLIN}/counts/white.csv",
        correlated=f"{PERLIN}/counts/correlated.csv",
        smooth=f"{PERLIN}/counts/smooth.csv",
        bowls=f"{PERLIN}/counts/bowls.csv",
    log:
        f"logs/{tier}/perlin_counts.log",
    threads: 1
    resources:
        gpu=1,
    params:
        settings=PERLIN_COUNTS,
        code=PERLIN_COUNTS_CODE,
    message:
        "count common minima"
    script:
        "../scripts/perlin_counts.py"


rule perlin_densities:
    output:
        f"{PERLIN}/densities/{{kind}}.csv",
    log:
        f"logs/{tier}/perlin_densities/{{kind}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        settings=lookup(dpath="{kind}", within=PERLIN_DENSITIES),
        code=PERLIN_DENSITIES_CODE,
    message:
        "count where composites of {wildcards.kind} rest"
    script:
        "../scripts/perlin_densities.py"


rule perlin_smoothness:
    output:
        table=f"{PERLIN}/relief/smoothness.csv",
        gallery=f"{PERLIN}/relief/gallery.npz",
    log:
        f"logs/{tier}/perlin_smoothness.log",
    threads: 1
    resources:
        gpu=1,
    params:
        settings=PERLIN_SMOOTHNESS,
        code=PERLIN_SMOOTHNESS_CODE,
    message:
        "measure how smooth composites are"
    script:
        "../scripts/perlin_smoothness.py"


rule perlin_descents:
    output:
        f"{PERLIN}/descents/{{kind}}.csv",
    log:
        f"logs/{tier}/perlin_descents/{{kind}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        settings=lookup(dpath="{kind}", within=PERLIN_DESCENTS),
        code=PERLIN_DESCENTS_CODE,
    message:
        "descend landscapes of kind {wildcards.kind}"
    script:
        "../scripts/perlin_descents.py"


rule perlin_harmony:
    output:
        densities=f"{PERLIN}/harmony/densities.csv",
        descents=f"{PERLIN}/harmony/descents.csv",
    log:
        f"logs/{tier}/perlin_harmony.log",
    threads: 1
    resources:
        gpu=1,
    params:
        settings=PERLIN_HARMONY,
        code=PERLIN_HARMONY_CODE,
    message:
        "vary what the layers of a team share"
    script:
        "../scripts/perlin_harmony.py"


rule perlin_measurements:
    input:
        white=f"{PERLIN}/counts/white.csv",
        correlated=f"{PERLIN}/counts/correlated.csv",
        smooth=f"{PERLIN}/counts/smooth.csv",
        bowls=f"{PERLIN}/counts/bowls.csv",
        densities=expand(f"{PERLIN}/densities/{{kind}}.csv", kind=PERLIN_DENSITIES),
        smoothness=f"{PERLIN}/relief/smoothness.csv",
        descents=expand(f"{PERLIN}/descents/{{kind}}.csv", kind=PERLIN_DESCENTS),
        harmony_densities=f"{PERLIN}/harmony/densities.csv",
        harmony_descents=f"{PERLIN}/harmony/descents.csv",
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
    output:
        measurements=f"{PERLIN}/measurements.csv",
        rates=f"{PERLIN}/rates.csv",
        ratios=f"{PERLIN}/ratios.csv",
        limits=f"{PERLIN}/limits.csv",
        success=f"{PERLIN}/success.csv",
        harmony=f"{PERLIN}/harmony.csv",
    log:
        f"logs/{tier}/perlin_measurements.log",
    threads: 1
    params:
        counts=PERLIN_COUNTS,
        densities=PERLIN_DENSITIES,
        smoothness=PERLIN_SMOOTHNESS,
        descents=PERLIN_DESCENTS,
        harmony=PERLIN_HARMONY,
        counts_code=PERLIN_COUNTS_CODE,
        densities_code=PERLIN_DENSITIES_CODE,
        smoothness_code=PERLIN_SMOOTHNESS_CODE,
        descents_code=PERLIN_DESCENTS_CODE,
        harmony_code=PERLIN_HARMONY_CODE,
        code=code(
            "lossatlas.studies.perlin.measurements",
            "lossatlas.claims",
            "lossatlas.tables",
        ),
    message:
        "measure the claims of perlin"
    script:
        "../scripts/perlin_measurements.py"


rule figure_perlin_gallery:
    """Figure: one rough landscape, and its composites by sum, gradient weights and largest gradient."""
    input:
        gallery=f"{PERLIN}/relief/gallery.npz",
    output:
        report(
            f"results/{tier}/figures/perlin_gallery.png",
            caption="../report/perlin_gallery.rst",
            category="perlin",
        ),
        f"results/{tier}/figures/perlin_gallery.svg",
    log:
        f"logs/{tier}/figure_perlin_gallery.log",
    threads: 1
    params:
        code=PERLIN_FIGURES_CODE,
    message:
        "draw perlin_gallery"
    script:
        "../scripts/figure_perlin.py"


rule figure_perlin_rates:
    """Figure: common minima of n landscapes, measured on the line p^n (planeswalker README)."""
    input:
        rates=f"{PERLIN}/rates.csv",
    output:
        report(
            f"results/{tier}/figures/perlin_rates.png",
            caption="../report/perlin_rates.rst",
            category="perlin",
        ),
        f"results/{tier}/figures/perlin_rates.svg",
    log:
        f"logs/{tier}/figure_perlin_rates.log",
    threads: 1
    params:
        code=PERLIN_FIGURES_CODE,
    message:
        "draw perlin_rates"
    script:
        "../scripts/figure_perlin.py"


rule figure_perlin_densities:
    """Figure: density of the places where composites rest against n, with the closed forms."""
    input:
        ratios=f"{PERLIN}/ratios.csv",
        limits=f"{PERLIN}/limits.csv",
    output:
        report(
            f"results/{tier}/figures/perlin_densities.png",
            caption="../report/perlin_densities.rst",
            category="perlin",
        ),
        f"results/{tier}/figures/perlin_densities.svg",
    log:
        f"logs/{tier}/figure_perlin_densities.log",
    threads: 1
    params:
        code=PERLIN_FIGURES_CODE,
    message:
        "draw perlin_densities"
    script:
        "../scripts/figure_perlin.py"


rule figure_perlin_success:
    """Figure: how often descents reach the common minimum against n, and at which cost."""
    input:
        success=f"{PERLIN}/success.csv",
    output:
        report(
            f"results/{tier}/figures/perlin_success.png",
            caption="../report/perlin_success.rst",
            category="perlin",
        ),
        f"results/{tier}/figures/perlin_success.svg",
    log:
        f"logs/{tier}/figure_perlin_success.log",
    threads: 1
    params:
        code=PERLIN_FIGURES_CODE,
    message:
        "draw perlin_success"
    script:
        "../scripts/figure_perlin.py"


rule figure_perlin_failures:
    """Figure: what became of the descents that did not arrive, against n."""
    input:
        success=f"{PERLIN}/success.csv",
    output:
        report(
            f"results/{tier}/figures/perlin_failures.png",
            caption="../report/perlin_failures.rst",
            category="perlin",
        ),
        f"results/{tier}/figures/perlin_failures.svg",
    log:
        f"logs/{tier}/figure_perlin_failures.log",
    threads: 1
    params:
        code=PERLIN_FIGURES_CODE,
    message:
        "draw perlin_failures"
    script:
        "../scripts/figure_perlin.py"


rule figure_perlin_harmony:
    """Figure: where teams rest and who arrives, against what their layers share (planeswalker README)."""
    input:
        harmony=f"{PERLIN}/harmony.csv",
    output:
        report(
            f"results/{tier}/figures/perlin_harmony.png",
            caption="../report/perlin_harmony.rst",
            category="perlin",
        ),
        f"results/{tier}/figures/perlin_harmony.svg",
    log:
        f"logs/{tier}/figure_perlin_harmony.log",
    threads: 1
    params:
        code=PERLIN_FIGURES_CODE,
    message:
        "draw perlin_harmony"
    script:
        "../scripts/figure_perlin.py"


rule study_perlin:
    """Study: when combining landscapes removes minima, its figures and its measurements."""
    input:
        f"{PERLIN}/measurements.csv",
        expand(
            "results/{tier}/figures/{figure}.png",
            tier=tier,
            figure=[name for name in FIGURES if name.startswith("perlin_")],
        ),
