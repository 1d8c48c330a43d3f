"""Train our pipeline within the budget, and score it on the held-back subjects.

The stage's epochs and their length (slices.per_epoch) are set so that its schedule ends with the
budget. Its operating point is chosen on validation, as always.

    python -m benchmarks.contenders.ours --config configs/strong.yaml --set paths.prepared=prepared
"""

from importlib import import_module
from pathlib import Path

from benchmarks.contenders import contest
from cli import read_settings, run, starting_tensorflow

SCRIPTS = {"train": "train_model", "transfer": "transfer_learning"}
EPOCHS = 12  # validating after every round of the slices would take a fifth of the budget
MEASURED_STEPS = 10


def add_arguments(parser):
    contest.add_arguments(parser)
    parser.add_argument("--stage", choices=SCRIPTS, default="train", help="default: train")
    parser.add_argument("--name", help="default: that of the --config file, or reference")


def main(argv=None):
    settings, arguments = read_settings(__doc__, argv, add_arguments)
    contest.set_up_process()
    config = arguments.config
    name = arguments.name or (config.stem if config else "reference")
    folder = contest.contender_folder(settings, arguments, name)
    budget = contest.Budget.given(arguments)
    step_s, validation_s = measure(settings, arguments.stage, budget)
    steps = budget.steps(EPOCHS, step_s, validation_s)
    plan = {"step_s": step_s, "validation_s": validation_s, "steps": steps, "epochs": EPOCHS}
    print(f"{EPOCHS} epochs of {steps} steps of {step_s:.2f} s, validation {validation_s:.1f} s")

    stage = getattr(settings, arguments.stage)
    planned = {"paths.runs": folder, "slices.per_epoch": steps * stage.batch_size}
    planned[f"{arguments.stage}.epochs"] = EPOCHS
    options = ["--config", str(config)] if config else []
    for override in (*arguments.overrides, *(f"{key}={value}" for key, value in planned.items())):
        options += ["--set", override]
    script = import_module(SCRIPTS[arguments.stage])
    budget.spend(lambda: script.main(options), folder, **plan)
    evaluate = import_module("evaluate").main
    trained = str(Path(folder, arguments.stage))
    evaluate([trained, *options, "--part", "validation"])
    evaluate([trained, *options, "--part", "test", "--output", str(folder / "evaluation")])


def measure(settings, name, budget):
    """Return the seconds of a step and of a validation."""
    with starting_tensorflow():
        from data import Parts
        from hardware import use_hardware
        from training import compile_model, set_random_seed
        from unet import build_unet

    stage, hardware = getattr(settings, name), settings.hardware
    lesions = Parts("atlas", settings, stage)
    use_hardware(hardware.devices, hardware.precision, stage.batch_size)
    set_random_seed(settings.seed)
    model = build_unet(**settings.unet.model_dump())
    training, validation = lesions.training, lesions.validation
    compile_model(model, stage, training.steps, hardware.jit)
    count = min(MEASURED_STEPS, training.steps, validation.steps)
    train_s = budget.cost(
        lambda: model.fit(training.dataset(), steps_per_epoch=count, shuffle=False, verbose=0)
    )
    validate_s = budget.cost(lambda: model.evaluate(validation.dataset(), steps=count, verbose=0))
    return train_s / count, validate_s / count * validation.steps


if __name__ == "__main__":
    run(main)
