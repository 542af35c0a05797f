rule evolution_measurements:
    input:
        tables=[path for path, _ in EVOLUTION_TABLES.values()],
        ledger=[path.as_posix() for path in sorted(Path("claims").glob("*.yaml"))],
    output:
        f"results/{tier}/evolution/measurements.csv",
    log:
        f"logs/{tier}/evolution_measurements.log",
    threads: 1
    params:
        tables={name: list(entry) for name, entry in EVOLUTION_TABLES.items()},
        code=code(
            "lossatlas.studies.evolution.measurements",
            "lossatlas.claims",
            "lossatlas.tables",
        ),
    message:
        "measure the claims of evolution"
    script:
        "../scripts/evolution_measurements.py"


rule study_evolution:
    """Study: evolution strategies and rough bilevel surfaces, their figures and measurements."""
    input:
        f"results/{tier}/evolution/measurements.csv",
        [
            f"results/{tier}/figures/{figure}.png"
            for figure in FIGURES
            if figure.startswith("evolution_")
        ],
