"""Train our pipeline within the budget, and score it on the held-back subjects.

The stage's epochs and their length (slices.per_epoch) are set so that its schedule ends with the
budget. Its operating point is chosen on validation, as always. `--stage pre_train` scores nothing;
`--stage transfer` starts from what it left. `--validation-only` is for choosing settings.

    python -m benchmarks.contenders.ours --config configs/strong.yaml --set paths.prepared=prepared
"""

from importlib import import_module

from benchmarks.contenders import contest
from benchmarks.contenders.healthy import HEALTHY, healthy_cases
from cli import read_settings, run, starting_tensorflow

STAGES = {
    "pre_train": ("pre_train_model", "brats17"),
    "train": ("train_model", "atlas"),
    "transfer": ("transfer_learning", "atlas"),
}
EPOCHS = 8  # validating after every round of the slices would take a fifth of the budget
MEASURED_STEPS = 10


def add_arguments(parser):
    contest.add_arguments(parser)
    parser.add_argument("--stage", choices=STAGES, default="train", help="default: train")
    parser.add_argument(
        "--name", help="default: that of the --config file, or reference; other stages add theirs"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    parser.add_argument(
        "--validation-only", action="store_true",
        help="score neither the held-back subjects nor the heads without lesion",
    )  # fmt: skip


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, add_arguments)
    contest.set_up_process()
    config, name = arguments.config, arguments.stage
    script, dataset = STAGES[name]
    stage = getattr(settings, name)
    base = arguments.name or (config.stem if config else "reference")
    contender = base if name == "train" else f"{base}-{name}"
    folder = contest.contender_folder(settings, arguments, contender)
    if dataset == "atlas":
        contest.check_scans(settings)
    healthy = None if arguments.validation_only else healthy_cases(arguments.results, settings)
    epochs, budget = arguments.epochs, contest.Budget.given(arguments)
    step_s, validation_s = measure(settings, stage, dataset, budget)
    steps = budget.steps(epochs, step_s, validation_s)
    plan = {"step_s": step_s, "validation_s": validation_s, "steps": steps, "epochs": epochs}
    print(f"{epochs} epochs of {steps} steps of {step_s:.2f} s, validation {validation_s:.1f} s")

    planned = {
        "paths.runs": folder, "slices.per_epoch": steps * stage.batch_size, f"{name}.epochs": epochs,
    }  # fmt: skip
    if name == "transfer" and not stage.initial_weights:
        pre_trained = folder.parents[1] / f"{base}-pre_train" / folder.name / "pre_train"
        planned["transfer.initial_weights"] = pre_trained / "best.weights.h5"
    options = ["--config", str(config)] if config else []
    for override in (*arguments.overrides, *(f"{key}={value}" for key, value in planned.items())):
        options += ["--set", override]
    train = import_module(script).main
    budget.spend(lambda: train(options), folder, **plan)
    if dataset == "atlas":
        evaluate = import_module("evaluate").main
        evaluate([str(folder / name), *options, "--part", "validation"])
    if dataset == "atlas" and not arguments.validation_only:
        evaluate(
            [str(folder / name), *options, "--part", "test", "--output", str(folder / "evaluation")]
        )
        mark_healthy(healthy, folder / name / "best.weights.h5", folder / HEALTHY, settings)


def mark_healthy(healthy, weights, place, settings):
    """Score what a network marks in heads without lesion."""
    predict = import_module("predict").main
    images = [str(case.scan.image) for case in healthy]
    predict([*images, "--weights", str(weights), "--output", str(place / "predictions")])
    contest.score(place, healthy, settings)


def measure(settings, stage, dataset, budget):
    """Return the seconds of a step and of a validation."""
    with starting_tensorflow():
        from data import Parts
        from hardware import use_hardware
        from training import compile_model, set_random_seed
        from unet import build_unet

    hardware = settings.hardware
    parts = Parts(dataset, settings, stage)
    use_hardware(hardware.devices, hardware.precision, stage.batch_size)
    set_random_seed(settings.seed)
    model = build_unet(**settings.unet.model_dump())
    training, validation = parts.training, parts.validation
    compile_model(model, stage, training.steps, hardware.jit)
    count = min(MEASURED_STEPS, training.steps, validation.steps)
    train_s = budget.cost(
        lambda: model.fit(training.dataset(), steps_per_epoch=count, shuffle=False, verbose=0)
    )
    validate_s = budget.cost(lambda: model.evaluate(validation.dataset(), steps=count, verbose=0))
    return train_s / count, validate_s / count * validation.steps


if __name__ == "__main__":
    run(main)
