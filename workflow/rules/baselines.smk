TRAINING_CODE = code("lossatlas.studies.baselines")


rule train:
    output:
        f"results/{tier}/baselines/{{ensemble}}.npz",
    log:
        f"logs/{tier}/train/{{ensemble}}.log",
    threads: 1
    resources:
        gpu=1,
    params:
        baseline=lookup(dpath="{ensemble}", within=BASELINES),
        code=TRAINING_CODE,
    message:
        "train {wildcards.ensemble}"
    script:
        "../scripts/train.py"
