"""Train our pipeline within the budget, and score it on the held-back subjects.

The stage's epochs and their length (slices.per_epoch) are set so that its schedule ends with the
budget. Its operating point is chosen on validation, as always. `--stage pre_train` scores nothing;
`--stage transfer` starts from what it left. `--validation-only` is for choosing settings.

    python -m benchmarks.contenders.ours --config configs/strong.yaml --set paths.prepared=prepared
"""

from importlib import import_module

from benchmarks.contenders import contest
from config import as_arguments, parse_arguments
from system.console import run_script, starting_keras
from system.yaml_files import quoted

STAGES = {
    "pre_train": ("pre_train_model", "brats17"),
    "train": ("train_model", "atlas"),
    "transfer": ("transfer_learning", "atlas"),
}
# Validating after every round of the slices would take a fifth of the budget.
EPOCHS = 8
MEASURED_STEPS = 10


def add_arguments(parser):
    contest.add_arguments(parser)
    parser.add_argument("--stage", choices=STAGES, default="train", help="default: train")
    parser.add_argument(
        "--name", help="default: that of the --config file, or reference; other stages add theirs"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    parser.add_argument(
        "--validation-only", action="store_true", help="do not score the held-back subjects"
    )


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    contest.set_up_process()
    name = arguments.stage
    script, dataset = STAGES[name]
    base = arguments.name or (arguments.config.stem if arguments.config else "reference")
    contender = base if name == "train" else f"{base}-{name}"
    subsets = ["validation"] if arguments.validation_only else ["validation", "test"]
    if dataset != "atlas" or arguments.train_only:
        subsets = []
    folder, trained = contest.contender_folder(settings, arguments, contender, bool(subsets))
    for subset in subsets:  # scans that are gone or changed are said now, not after the training
        contest.cases_of(settings, subset)
    own = [f"paths.runs={quoted(folder)}"]
    if not trained:
        budget = contest.Budget.given(arguments)
        plan = plan_training(settings, arguments, budget)
        pre_trained = folder.parents[1] / f"{base}-pre_train" / folder.name / "pre_train"
        planned_so = planned(settings, name, plan, pre_trained)
        words = as_arguments(arguments.config, (*arguments.overrides, *own, *planned_so))
        train = import_module(script).main
        budget.spend(lambda: train(words), folder, **plan)
    score(folder, name, subsets, as_arguments(arguments.config, (*arguments.overrides, *own)))


def plan_training(settings, arguments, budget):
    """Return how many steps an epoch has, of how many epochs, and what they cost."""
    stage, epochs = getattr(settings, arguments.stage), arguments.epochs
    step_s, validation_s = measure(settings, stage, STAGES[arguments.stage][1], budget)
    steps = budget.steps(epochs, step_s, validation_s)
    print(f"{epochs} epochs of {steps} steps of {step_s:.2f} s, validation {validation_s:.1f} s")
    return {"step_s": step_s, "validation_s": validation_s, "epochs": epochs, "steps": steps}


def planned(settings, name, plan, pre_trained):
    """Return the settings that hold a stage to its plan, and transfer to what was pre-trained so."""
    stage = getattr(settings, name)
    own = [
        f"slices.per_epoch={plan['steps'] * stage.batch_size}",
        f"{name}.epochs={plan['epochs']}",
    ]
    if name == "transfer" and not stage.initial_weights:
        own.append(f"transfer.initial_weights={quoted(pre_trained / 'best.weights.h5')}")
    return own


def score(folder, name, subsets, options):
    """Score a network: validation first, which chooses its operating point."""
    evaluate = import_module("evaluate").main
    places = {"validation": folder / "evaluation" / "validation", "test": folder / "evaluation"}
    for subset in subsets:
        evaluate(
            [str(folder / name), *options, "--subset", subset, "--output", str(places[subset])]
        )


def measure(settings, stage, dataset, budget):
    """Return the seconds of a step and of a validation."""
    with starting_keras():
        from data import load_stage_data
        from stage import compile_model
        from system.devices import feed, use_hardware
        from unet import build_unet

    hardware = settings.hardware
    data = load_stage_data(dataset, settings, stage.batch_size, stage.augmentation)
    use_hardware(hardware.devices, hardware.precision, stage.batch_size)
    model = build_unet(**settings.unet.model_dump())
    training, validation = data.training, data.validation
    compile_model(model, stage, training.steps, hardware.jit)
    count = min(MEASURED_STEPS, training.steps, validation.steps)
    train_s = budget.cost(
        lambda: model.fit(feed(training), steps_per_epoch=count, shuffle=False, verbose=0)
    )
    validate_s = budget.cost(lambda: model.evaluate(feed(validation), steps=count, verbose=0))
    return train_s / count, validate_s / count * validation.steps


if __name__ == "__main__":
    run_script(main)
