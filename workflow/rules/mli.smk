from dataclasses import asdict

from lossatlas.studies.mli import plan

try:
    MLI = plan.ensembles(config["mli"])
except LossAtlasError as error:
    raise WorkflowError(str(error)) from None
STUDIES.append("mli")
FIGURES.append("mli")
MLI_CONTROLS = plan.controls(MLI)
BASELINES |= {name: asdict(baseline) for name, baseline in MLI.items()}
MLI_RUNS = {key: config["mli"][key] for key in ("points", "trained_loss", "logit_rows")}
MLI_LINES = {
    key: config["mli"][key]
    for key in (
        "points",
        "control_points",
        "trained_loss",
        "variation_rates",
        "fresh_starts",
    )
}
MLI_RUNS_CODE = code("lossatlas.studies.mli.runs")
MLI_CONTROLS_CODE = code("lossatlas.studies.mli.controls")


rule mli_runs:
    input:
        f"results/{tier}/baselines/{{ensemble}}.npz",
    output:
        table=f"results/{tier}/mli/runs/{{ensemble}}.csv",
        curves=f"results/{tier}/mli/runs/{{ensemble}}.npz",
    log:
        f"logs/{tier}/mli_runs/{{ensemble}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=lookup(dpath="{ensemble}", within=BASELINES),
        settings=MLI_RUNS,
        training_code=TRAINING_CODE,
        code=MLI_RUNS_CODE,
    message:
        "interpolate {wildcards.ensemble}"
    script:
        "../scripts/mli_runs.py"


rule mli_controls:
    input:
        f"results/{tier}/baselines/{{ensemble}}.npz",
    output:
        f"results/{tier}/mli/controls/{{ensemble}}.csv",
    log:
        f"logs/{tier}/mli_controls/{{ensemble}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=lookup(dpath="{ensemble}", within=BASELINES),
        arms=lookup(dpath="{ensemble}", within=MLI_CONTROLS),
        settings=MLI_LINES,
        training_code=TRAINING_CODE,
        code=MLI_CONTROLS_CODE,
    message:
        "controls of {wildcards.ensemble}"
    script:
        "../scripts/mli_controls.py"


rule mli_measurements:
    input:
        runs=expand("results/{tier}/mli/runs/{ensemble}.csv", tier=tier, ensemble=MLI),
        controls=expand(
            "results/{tier}/mli/controls/{ensemble}.csv",
            tier=tier,
            ensemble=MLI_CONTROLS,
        ),
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
    output:
        measurements=f"results/{tier}/mli/measurements.csv",
        table=f"results/{tier}/mli/monotone.csv",
    log:
        f"logs/{tier}/mli_measurements.log",
    threads: 1
    params:
        baselines={name: BASELINES[name] for name in MLI},
        arms={name: list(arms) for name, arms in MLI_CONTROLS.items()},
        runs_settings=MLI_RUNS,
        controls_settings=MLI_LINES,
        runs_code=MLI_RUNS_CODE,
        controls_code=MLI_CONTROLS_CODE,
        code=code(
            "lossatlas.studies.mli.measurements",
            "lossatlas.claims",
            "lossatlas.tables",
        ),
    message:
        "measure the claims of mli"
    script:
        "../scripts/mli_measurements.py"


rule figure_mli:
    """Figure: loss on the line, and when it is not monotone (Lucas et al. 2021)."""
    input:
        runs=expand("results/{tier}/mli/runs/{ensemble}.csv", tier=tier, ensemble=MLI),
        curves=expand(
            "results/{tier}/mli/runs/{ensemble}.npz",
            tier=tier,
            ensemble=plan.drawn(MLI),
        ),
        table=f"results/{tier}/mli/monotone.csv",
    output:
        report(
            f"results/{tier}/figures/mli.png",
            caption="../report/mli.rst",
            category="mli",
        ),
        f"results/{tier}/figures/mli.svg",
    log:
        f"logs/{tier}/figure_mli.log",
    threads: 1
    params:
        code=code("lossatlas.figures.mli", "lossatlas.tables"),
    message:
        "draw mli"
    script:
        "../scripts/figure_mli.py"


rule study_mli:
    """Study: monotonic linear interpolation, its figure and its measurements."""
    input:
        f"results/{tier}/mli/measurements.csv",
        f"results/{tier}/figures/mli.png",
