from lossatlas.studies.autoneb import plan as autoneb_plan

try:
    AUTONEB = {
        name: asdict(baseline)
        for name, baseline in autoneb_plan.ensembles(config["autoneb"]).items()
    }
except LossAtlasError as error:
    raise WorkflowError(str(error)) from None
STUDIES.append("autoneb")
FIGURES.extend(
    [
        "autoneb_cycles",
        "autoneb_levels",
        "autoneb_tree",
        "autoneb_length",
        "autoneb_budget",
        "autoneb_neighbours",
    ]
)
BASELINES |= AUTONEB
AUTONEB_BANDS = autoneb_plan.bands(config["autoneb"])
AUTONEB_FAMILIES = autoneb_plan.families(config["autoneb"])
AUTONEB_TREE = autoneb_plan.ensemble(config["autoneb"]["tree"]["network"])
AUTONEB_STABLE = autoneb_plan.ensemble(config["autoneb"]["stability"]["network"])
AUTONEB_CONTROLLED = autoneb_plan.ensemble(config["autoneb"]["controls"]["network"])
AUTONEB_FOLDER = f"results/{tier}/autoneb"
AUTONEB_ARMS = {
    family: {
        "minima": f"results/{tier}/baselines/{ensemble}.npz",
        "baseline": AUTONEB[ensemble],
        "settings": AUTONEB_BANDS[ensemble]
        | {"comparison": config["autoneb"]["comparison"]},
    }
    for family, ensemble in AUTONEB_FAMILIES.items()
}
# The parts that train a network of their own: which one, and their settings beside those of its bands.
AUTONEB_NEIGHBOURS = {
    part: {
        "baseline": AUTONEB[ensemble],
        "settings": AUTONEB_BANDS[ensemble]
        | {key: config["autoneb"][key] for key in (part, "comparison")},
    }
    for part, ensemble in autoneb_plan.neighbours(config["autoneb"]).items()
}
AUTONEB_NEIGHBOURS_CODE = code(
    "lossatlas.studies.autoneb.penalised",
    "lossatlas.studies.autoneb.dropped",
    "lossatlas.studies.autoneb.ensembles",
)
AUTONEB_CODE = code(
    "lossatlas.studies.autoneb.levels",
    "lossatlas.studies.autoneb.exploration",
    "lossatlas.studies.autoneb.comparison",
    "lossatlas.studies.autoneb.controls",
    "lossatlas.studies.autoneb.stability",
)
AUTONEB_TABLES = {
    "levels": expand(
        f"{AUTONEB_FOLDER}/levels/{{ensemble}}.csv", ensemble=AUTONEB_BANDS
    ),
    "tree": [
        f"{AUTONEB_FOLDER}/tree/{number}-{part}.csv"
        for number, part in autoneb_plan.parts(config["autoneb"]["tree"])
    ],
    "arms": expand(f"{AUTONEB_FOLDER}/arms/{{family}}.csv", family=AUTONEB_FAMILIES),
    "cycles": expand(
        f"{AUTONEB_FOLDER}/arms/{{family}}.cycles.csv", family=AUTONEB_FAMILIES
    ),
    "tuning": f"{AUTONEB_FOLDER}/tuning.csv",
    "controls": f"{AUTONEB_FOLDER}/controls.csv",
    "stability": f"{AUTONEB_FOLDER}/stability.csv",
    "surfaces": f"{AUTONEB_FOLDER}/surfaces.csv",
    **{part: f"{AUTONEB_FOLDER}/{part}.csv" for part in autoneb_plan.NEIGHBOURS},
}


# What each round of the tree reads: the files, without their ending, of all rounds before it.
AUTONEB_FORMER = {
    number: [
        f"{AUTONEB_FOLDER}/tree/{former}-{part}"
        for former, part in autoneb_plan.former_parts(config["autoneb"]["tree"], number)
    ]
    for number, _ in autoneb_plan.parts(config["autoneb"]["tree"])
}


wildcard_constraints:
    round=r"\d+",
    part=r"\d+",
    family=r"[a-z]+",
    neighbour="penalised|ensembles",


rule autoneb_surfaces:
    output:
        f"{AUTONEB_FOLDER}/surfaces.csv",
    log:
        f"logs/{tier}/autoneb_surfaces.log",
    threads: 1
    params:
        code=code("lossatlas.studies.autoneb.surfaces"),
    message:
        "bands on surfaces whose saddles are known"
    script:
        "../scripts/autoneb_surfaces.py"


rule autoneb_controls:
    input:
        f"results/{tier}/baselines/{AUTONEB_CONTROLLED}.npz",
    output:
        controls=f"{AUTONEB_FOLDER}/controls.csv",
        stability=f"{AUTONEB_FOLDER}/stability.csv",
    log:
        f"logs/{tier}/autoneb_controls.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=AUTONEB[AUTONEB_CONTROLLED],
        stable_baseline=AUTONEB[AUTONEB_STABLE],
        settings=AUTONEB_BANDS[AUTONEB_CONTROLLED]
        | {key: config["autoneb"][key] for key in ("controls", "stability")},
        training_code=TRAINING_CODE,
        code=AUTONEB_CODE,
    message:
        "join copies of one network, and two children of one"
    script:
        "../scripts/autoneb_controls.py"


rule autoneb_dropped:
    output:
        table=AUTONEB_TABLES["dropped"],
        profiles=f"{AUTONEB_FOLDER}/dropped.npz",
    log:
        f"logs/{tier}/autoneb_dropped.log",
    threads: 1
    resources:
        gpu=1,
    params:
        **AUTONEB_NEIGHBOURS["dropped"],
        code=AUTONEB_NEIGHBOURS_CODE,
    message:
        "paths through networks without half of their units"
    script:
        "../scripts/autoneb_dropped.py"


rule autoneb_neighbour:
    output:
        f"{AUTONEB_FOLDER}/{{neighbour}}.csv",
    log:
        f"logs/{tier}/autoneb_{{neighbour}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=lookup(dpath="{neighbour}/baseline", within=AUTONEB_NEIGHBOURS),
        settings=lookup(dpath="{neighbour}/settings", within=AUTONEB_NEIGHBOURS),
        code=AUTONEB_NEIGHBOURS_CODE,
    message:
        "train networks anew: {wildcards.neighbour}"
    script:
        "../scripts/autoneb_neighbour.py"


rule autoneb_levels:
    input:
        f"results/{tier}/baselines/{{ensemble}}.npz",
    output:
        table=f"{AUTONEB_FOLDER}/levels/{{ensemble}}.csv",
        profiles=f"{AUTONEB_FOLDER}/levels/{{ensemble}}.npz",
    log:
        f"logs/{tier}/autoneb_levels/{{ensemble}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=lookup(dpath="{ensemble}", within=BASELINES),
        settings=lookup(dpath="{ensemble}", within=AUTONEB_BANDS),
        training_code=TRAINING_CODE,
        code=AUTONEB_CODE,
    message:
        "join pairs of minima of {wildcards.ensemble}"
    script:
        "../scripts/autoneb_levels.py"


rule autoneb_round:
    input:
        minima=f"results/{tier}/baselines/{AUTONEB_TREE}.npz",
        former=lambda wildcards: [
            f"{path}.csv" for path in AUTONEB_FORMER[int(wildcards.round)]
        ],
        paths=lambda wildcards: [
            f"{path}.npz" for path in AUTONEB_FORMER[int(wildcards.round)]
        ],
    output:
        table=f"{AUTONEB_FOLDER}/tree/{{round}}-{{part}}.csv",
        paths=f"{AUTONEB_FOLDER}/tree/{{round}}-{{part}}.npz",
    log:
        f"logs/{tier}/autoneb_round/{{round}}-{{part}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=AUTONEB[AUTONEB_TREE],
        settings=AUTONEB_BANDS[AUTONEB_TREE] | {"tree": config["autoneb"]["tree"]},
        training_code=TRAINING_CODE,
        code=AUTONEB_CODE,
    message:
        "round {wildcards.round} of the spanning tree, part {wildcards.part}"
    script:
        "../scripts/autoneb_round.py"


rule autoneb_tuning:
    input:
        AUTONEB_ARMS["budget"]["minima"],
    output:
        f"{AUTONEB_FOLDER}/tuning.csv",
    log:
        f"logs/{tier}/autoneb_tuning.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=AUTONEB_ARMS["budget"]["baseline"],
        settings=AUTONEB_ARMS["budget"]["settings"],
        training_code=TRAINING_CODE,
        code=AUTONEB_CODE,
    message:
        "tune the learning rate of every arm"
    script:
        "../scripts/autoneb_tuning.py"


rule autoneb_arms:
    input:
        minima=lookup(dpath="{family}/minima", within=AUTONEB_ARMS),
        tuning=f"{AUTONEB_FOLDER}/tuning.csv",
    output:
        table=f"{AUTONEB_FOLDER}/arms/{{family}}.csv",
        cycles=f"{AUTONEB_FOLDER}/arms/{{family}}.cycles.csv",
        profiles=f"{AUTONEB_FOLDER}/arms/{{family}}.npz",
    log:
        f"logs/{tier}/autoneb_arms/{{family}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=lookup(dpath="{family}/baseline", within=AUTONEB_ARMS),
        settings=lookup(dpath="{family}/settings", within=AUTONEB_ARMS),
        training_code=TRAINING_CODE,
        code=AUTONEB_CODE,
    message:
        "arms of the family {wildcards.family} on the same pairs"
    script:
        "../scripts/autoneb_arms.py"


rule autoneb_measurements:
    input:
        **AUTONEB_TABLES,
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
    output:
        measurements=f"{AUTONEB_FOLDER}/measurements.csv",
        networks=f"{AUTONEB_FOLDER}/networks.csv",
        methods=f"{AUTONEB_FOLDER}/methods.csv",
        anytime=f"{AUTONEB_FOLDER}/anytime.csv",
    log:
        f"logs/{tier}/autoneb_measurements.log",
    threads: 1
    params:
        settings=config["autoneb"],
        tables_code=AUTONEB_CODE,
        neighbours_code=AUTONEB_NEIGHBOURS_CODE,
        code=code(
            "lossatlas.studies.autoneb.measurements",
            "lossatlas.claims",
            "lossatlas.tables",
        ),
    message:
        "measure the claims of autoneb"
    script:
        "../scripts/autoneb_measurements.py"


rule figure_autoneb_cycles:
    """Figure: loss along one path after each cycle, and on other methods' paths (Draxler et al. 2018, Fig. 4)."""
    input:
        f"{AUTONEB_FOLDER}/arms/budget.npz",
    output:
        report(
            f"results/{tier}/figures/autoneb_cycles.png",
            caption="../report/autoneb_cycles.rst",
            category="autoneb",
        ),
        f"results/{tier}/figures/autoneb_cycles.svg",
    log:
        f"logs/{tier}/figure_autoneb_cycles.log",
    threads: 1
    params:
        code=code("lossatlas.figures.autoneb", "lossatlas.tables"),
    message:
        "draw autoneb_cycles"
    script:
        "../scripts/figure_autoneb_cycles.py"


rule figure_autoneb_levels:
    """Figure: minima, saddles and test level against width and depth (Draxler et al. 2018, Fig. 5)."""
    input:
        f"{AUTONEB_FOLDER}/networks.csv",
    output:
        report(
            f"results/{tier}/figures/autoneb_levels.png",
            caption="../report/autoneb_levels.rst",
            category="autoneb",
        ),
        f"results/{tier}/figures/autoneb_levels.svg",
    log:
        f"logs/{tier}/figure_autoneb_levels.log",
    threads: 1
    params:
        code=code("lossatlas.figures.autoneb", "lossatlas.tables"),
    message:
        "draw autoneb_levels"
    script:
        "../scripts/figure_autoneb_levels.py"


rule figure_autoneb_tree:
    """Figure: disconnectivity graph, anytime curve of the spanning tree, and replacement bands."""
    input:
        bands=AUTONEB_TABLES["tree"],
        anytime=f"{AUTONEB_FOLDER}/anytime.csv",
    output:
        report(
            f"results/{tier}/figures/autoneb_tree.png",
            caption="../report/autoneb_tree.rst",
            category="autoneb",
        ),
        f"results/{tier}/figures/autoneb_tree.svg",
    log:
        f"logs/{tier}/figure_autoneb_tree.log",
    threads: 1
    params:
        code=code("lossatlas.figures.autoneb", "lossatlas.tables"),
    message:
        "draw autoneb_tree"
    script:
        "../scripts/figure_autoneb_tree.py"


rule figure_autoneb_length:
    """Figure: length of the path over the straight distance of its ends (Draxler et al. 2018, Fig. 7)."""
    input:
        levels=AUTONEB_TABLES["levels"],
        arms=f"{AUTONEB_FOLDER}/arms/budget.csv",
    output:
        report(
            f"results/{tier}/figures/autoneb_length.png",
            caption="../report/autoneb_length.rst",
            category="autoneb",
        ),
        f"results/{tier}/figures/autoneb_length.svg",
    log:
        f"logs/{tier}/figure_autoneb_length.log",
    threads: 1
    params:
        networks=autoneb_plan.labels(config["autoneb"]),
        code=code("lossatlas.figures.autoneb", "lossatlas.tables"),
    message:
        "draw autoneb_length"
    script:
        "../scripts/figure_autoneb_length.py"


rule figure_autoneb_budget:
    """Figure: every method for equal sample gradients, and the published schedule against ours."""
    input:
        arms=expand(
            f"{AUTONEB_FOLDER}/arms/{{family}}.csv", family=["budget", "placebos"]
        ),
        methods=f"{AUTONEB_FOLDER}/methods.csv",
        cycles=f"{AUTONEB_FOLDER}/arms/published.cycles.csv",
    output:
        report(
            f"results/{tier}/figures/autoneb_budget.png",
            caption="../report/autoneb_budget.rst",
            category="autoneb",
        ),
        f"results/{tier}/figures/autoneb_budget.svg",
    log:
        f"logs/{tier}/figure_autoneb_budget.log",
    threads: 1
    params:
        code=code("lossatlas.figures.autoneb", "lossatlas.tables"),
    message:
        "draw autoneb_budget"
    script:
        "../scripts/figure_autoneb_budget.py"


rule figure_autoneb_neighbours:
    """Figure: paths through dropped networks, curves with a penalty, and geometric ensembles."""
    input:
        profiles=f"{AUTONEB_FOLDER}/dropped.npz",
        penalised=AUTONEB_TABLES["penalised"],
        ensembles=AUTONEB_TABLES["ensembles"],
    output:
        report(
            f"results/{tier}/figures/autoneb_neighbours.png",
            caption="../report/autoneb_neighbours.rst",
            category="autoneb",
        ),
        f"results/{tier}/figures/autoneb_neighbours.svg",
    log:
        f"logs/{tier}/figure_autoneb_neighbours.log",
    threads: 1
    params:
        code=code("lossatlas.figures.autoneb", "lossatlas.tables"),
    message:
        "draw autoneb_neighbours"
    script:
        "../scripts/figure_autoneb_neighbours.py"


rule study_autoneb:
    """Study: elastic bands and mode connectivity, its figures and its measurements."""
    input:
        f"{AUTONEB_FOLDER}/measurements.csv",
        expand(
            "results/{tier}/figures/autoneb_{name}.png",
            tier=tier,
            name=["cycles", "levels", "tree", "length", "budget", "neighbours"],
        ),
