"""Train our pipeline within the budget, and score it on the held-back subjects.

The stage's epochs and their length (slices.per_epoch) are set so that its schedule ends with the
budget. Its operating point is chosen on validation, as always. `--stage pre_train` scores nothing;
`--stage transfer` starts from what it left. `--all-folds` shares the budget among a network of each
fold of cross_validate.py, in this one process, and scores their average. `--validation-only` is for
choosing settings.

    python -m benchmarks.contenders.ours --config configs/strong.yaml --set paths.prepared=prepared
"""

from importlib import import_module

from benchmarks.contenders import contest
from benchmarks.contenders.healthy import HEALTHY, healthy_cases
from config import as_arguments, parse_arguments
from system.console import run_script, starting_keras
from system.files import InputError
from system.yaml_files import quoted

STAGES = {
    "pre_train": ("pre_train_model", "brats17"),
    "train": ("train_model", "atlas"),
    "transfer": ("transfer_learning", "atlas"),
}
# Validating after every round of the slices would take a fifth of the budget.
EPOCHS, EPOCHS_OF_A_FOLD = 8, 4
MEASURED_STEPS = 10


def add_arguments(parser):
    contest.add_arguments(parser)
    parser.add_argument("--stage", choices=STAGES, default="train", help="default: train")
    parser.add_argument(
        "--name", help="default: that of the --config file, or reference; other stages add theirs"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        help=f"of each network; default: {EPOCHS}, with --all-folds {EPOCHS_OF_A_FOLD}",
    )
    parser.add_argument(
        "--all-folds", action="store_true", help="train all folds within the budget, average them"
    )
    parser.add_argument(
        "--validation-only",
        action="store_true",
        help="score neither the held-back subjects nor the heads without lesion",
    )


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    contest.set_up_process()
    name = arguments.stage
    script, dataset = STAGES[name]
    if arguments.all_folds and dataset != "atlas":
        raise InputError(
            f"--all-folds: {name} learns no lesions, and is trained once for all folds"
        )
    base = arguments.name or (arguments.config.stem if arguments.config else "reference")
    contender = base if name == "train" else f"{base}-{name}"
    folder = contest.contender_folder(settings, arguments, contender)
    runs = {settings.fold: folder}
    if arguments.all_folds:  # named so, evaluate.py takes them for one run
        runs = {fold: folder / f"fold_{fold}" for fold in range(settings.split.folds)}
    if dataset == "atlas":
        contest.check_scans(settings, runs)
    subsets = ["validation"] if arguments.validation_only else ["validation", "test"]
    healthy = healthy_cases(arguments.results, settings) if "test" in subsets else []
    budget = contest.Budget.given(arguments)
    plan = plan_training(settings, arguments, budget, len(runs))

    pre_trained = folder.parents[1] / f"{base}-pre_train" / folder.name / "pre_train"
    own = planned(settings, name, plan, pre_trained)
    options = as_arguments(arguments.config, (*arguments.overrides, *own))
    train = import_module(script).main

    def train_all():
        for fold, place in runs.items():
            train(
                [*options, *as_arguments(overrides=(f"fold={fold}", f"paths.runs={quoted(place)}"))]
            )

    budget.spend(train_all, folder, **plan)
    if dataset == "atlas":
        trained = [place / name for place in runs.values()]
        score(trained, folder, subsets, options)
        if healthy:
            mark_healthy(healthy, trained, folder / HEALTHY, settings)


def plan_training(settings, arguments, budget, networks):
    """Return how many steps an epoch has, of how many epochs of each network, and what they cost."""
    stage = getattr(settings, arguments.stage)
    epochs = arguments.epochs or (EPOCHS_OF_A_FOLD if arguments.all_folds else EPOCHS)
    step_s, validation_s = measure(settings, stage, STAGES[arguments.stage][1], budget)
    steps = budget.steps(networks * epochs, step_s, validation_s)
    several = f"{networks} networks, each " if networks > 1 else ""
    print(
        f"{several}{epochs} epochs of {steps} steps of {step_s:.2f} s, "
        f"validation {validation_s:.1f} s"
    )
    costs = {"step_s": step_s, "validation_s": validation_s}
    return costs | {"networks": networks, "epochs": epochs, "steps": steps}


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


def score(trained, folder, subsets, options):
    """Score a network, or the average of several: validation first, which chooses its operating point."""
    evaluate = import_module("evaluate").main
    places = {"validation": folder / "evaluation" / "validation", "test": folder / "evaluation"}
    for subset in subsets:
        words = ["--subset", subset, "--output", str(places[subset])]
        evaluate([*map(str, trained), *options, *words])


def mark_healthy(healthy, trained, place, settings):
    """Score what a network, or the average of several, marks in heads without lesion."""
    predict = import_module("predict").main
    images = [str(case.image) for case in healthy]
    weights = [str(run_folder / "best.weights.h5") for run_folder in trained]
    predict([*images, "--weights", *weights, "--output", str(place / "predictions")])
    contest.score(place, healthy, settings)


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
