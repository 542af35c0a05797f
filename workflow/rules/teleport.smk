from lossatlas.studies.teleport import plan as teleport_plan

try:
    TELEPORT = teleport_plan.experiments(config["teleport"])
except LossAtlasError as error:
    raise WorkflowError(str(error)) from None
TELEPORT_ALONE = {name: [TELEPORT[name]] for name in teleport_plan.LONG}
STUDIES.append("teleport")
FIGURES += [
    f"teleport_{name}"
    for name in ("trajectories", "loss", "orbit", "barriers", "leap", "schedules")
]
TELEPORT_RUNS_CODE = code("lossatlas.studies.teleport.runs")
TELEPORT_FIGURE_CODE = code("lossatlas.figures.teleport", "lossatlas.tables")


rule teleport_short_runs:
    output:
        tables=expand(
            "results/{tier}/teleport/runs/{experiment}.csv",
            tier=tier,
            experiment=teleport_plan.SHORT,
        ),
        arrays=expand(
            "results/{tier}/teleport/runs/{experiment}.npz",
            tier=tier,
            experiment=teleport_plan.SHORT,
        ),
    log:
        f"logs/{tier}/teleport_short_runs.log",
    threads: 1
    params:
        settings=[TELEPORT[name] for name in teleport_plan.SHORT],
        code=TELEPORT_RUNS_CODE,
    message:
        "teleport: the short experiments, one after another"
    script:
        "../scripts/teleport_run.py"


rule teleport_run:
    output:
        tables=[f"results/{tier}/teleport/runs/{{experiment}}.csv"],
        arrays=[f"results/{tier}/teleport/runs/{{experiment}}.npz"],
    log:
        f"logs/{tier}/teleport_run/{{experiment}}.log",
    wildcard_constraints:
        experiment="|".join(teleport_plan.LONG),
    threads: 1
    params:
        settings=lookup(dpath="{experiment}", within=TELEPORT_ALONE),
        code=TELEPORT_RUNS_CODE,
    message:
        "teleport: {wildcards.experiment}"
    script:
        "../scripts/teleport_run.py"


rule teleport_measurements:
    input:
        tables=expand(
            "results/{tier}/teleport/runs/{experiment}.csv",
            tier=tier,
            experiment=TELEPORT,
        ),
        arrays=expand(
            "results/{tier}/teleport/runs/{experiment}.npz",
            tier=tier,
            experiment=TELEPORT,
        ),
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
    output:
        measurements=f"results/{tier}/teleport/measurements.csv",
        table=f"results/{tier}/teleport/arms.csv",
    log:
        f"logs/{tier}/teleport_measurements.log",
    threads: 1
    params:
        settings=TELEPORT,
        runs_code=TELEPORT_RUNS_CODE,
        code=code(
            "lossatlas.studies.teleport.measurements",
            "lossatlas.claims",
            "lossatlas.tables",
        ),
    message:
        "measure the claims of teleport"
    script:
        "../scripts/teleport_measurements.py"


rule figure_teleport_trajectories:
    """Figure: descent on Rosenbrock and Booth with and without teleports (Zhao et al. 2022, Figure 2)."""
    input:
        f"results/{tier}/teleport/runs/functions.csv",
        f"results/{tier}/teleport/runs/functions.npz",
    output:
        report(
            f"results/{tier}/figures/teleport_trajectories.png",
            caption="../report/teleport_trajectories.rst",
            category="teleport",
        ),
        f"results/{tier}/figures/teleport_trajectories.svg",
    log:
        f"logs/{tier}/figure_teleport_trajectories.log",
    threads: 1
    params:
        panel="trajectories",
        code=TELEPORT_FIGURE_CODE,
    message:
        "draw teleport_trajectories"
    script:
        "../scripts/figure_teleport.py"


rule figure_teleport_loss:
    """Figure: loss of the MLP regression against gradient equivalents, at the published and at tuned rates."""
    input:
        f"results/{tier}/teleport/runs/regression.csv",
        f"results/{tier}/teleport/runs/regression.npz",
    output:
        report(
            f"results/{tier}/figures/teleport_loss.png",
            caption="../report/teleport_loss.rst",
            category="teleport",
        ),
        f"results/{tier}/figures/teleport_loss.svg",
    log:
        f"logs/{tier}/figure_teleport_loss.log",
    threads: 1
    params:
        panel="loss",
        code=TELEPORT_FIGURE_CODE,
    message:
        "draw teleport_loss"
    script:
        "../scripts/figure_teleport.py"


rule figure_teleport_orbit:
    """Figure: gradient norm against sharpness along orbits, and the tuned full-batch control."""
    input:
        f"results/{tier}/teleport/runs/control.csv",
        f"results/{tier}/teleport/runs/control.npz",
    output:
        report(
            f"results/{tier}/figures/teleport_orbit.png",
            caption="../report/teleport_orbit.rst",
            category="teleport",
        ),
        f"results/{tier}/figures/teleport_orbit.svg",
    log:
        f"logs/{tier}/figure_teleport_orbit.log",
    threads: 1
    params:
        panel="orbit",
        code=TELEPORT_FIGURE_CODE,
    message:
        "draw teleport_orbit"
    script:
        "../scripts/figure_teleport.py"


rule figure_teleport_barriers:
    """Figure: barriers between teleported and untouched solutions, on segments and on elastic bands."""
    input:
        f"results/{tier}/teleport/runs/bands.csv",
        f"results/{tier}/teleport/runs/bands.npz",
    output:
        report(
            f"results/{tier}/figures/teleport_barriers.png",
            caption="../report/teleport_barriers.rst",
            category="teleport",
        ),
        f"results/{tier}/figures/teleport_barriers.svg",
    log:
        f"logs/{tier}/figure_teleport_barriers.log",
    threads: 1
    params:
        panel="barriers",
        code=TELEPORT_FIGURE_CODE,
    message:
        "draw teleport_barriers"
    script:
        "../scripts/figure_teleport.py"


rule figure_teleport_leap:
    """Figure: what the leap of baubels/gradient_teleportation is made of."""
    input:
        f"results/{tier}/teleport/runs/baubels.csv",
        f"results/{tier}/teleport/runs/baubels.npz",
    output:
        report(
            f"results/{tier}/figures/teleport_leap.png",
            caption="../report/teleport_leap.rst",
            category="teleport",
        ),
        f"results/{tier}/figures/teleport_leap.svg",
    log:
        f"logs/{tier}/figure_teleport_leap.log",
    threads: 1
    params:
        panel="leap",
        code=TELEPORT_FIGURE_CODE,
    message:
        "draw teleport_leap"
    script:
        "../scripts/figure_teleport.py"


rule figure_teleport_schedules:
    """Figure: final loss by schedule of the teleports (Zhao et al. 2022, MNIST)."""
    input:
        f"results/{tier}/teleport/runs/schedules.csv",
        f"results/{tier}/teleport/runs/schedules.npz",
    output:
        report(
            f"results/{tier}/figures/teleport_schedules.png",
            caption="../report/teleport_schedules.rst",
            category="teleport",
        ),
        f"results/{tier}/figures/teleport_schedules.svg",
    log:
        f"logs/{tier}/figure_teleport_schedules.log",
    threads: 1
    params:
        panel="schedules",
        code=TELEPORT_FIGURE_CODE,
    message:
        "draw teleport_schedules"
    script:
        "../scripts/figure_teleport.py"


rule study_teleport:
    """Study: symmetry teleportation, its figures and its measurements."""
    input:
        f"results/{tier}/teleport/measurements.csv",
        expand(
            "results/{tier}/figures/{figure}.png",
            tier=tier,
            figure=[name for name in FIGURES if name.startswith("teleport_")],
        ),
