"""Train nnU-Net v2's 2D configuration within the budget, and score it on the held-back subjects.

Fingerprint, planner, preprocessor, trainer and predictor are its own, on the scans that our slices
were made from, the brain alone as in these, with our split. Each is as it comes but for two things.
The epochs: nnU-Net's 1,000 of 250 iterations and 50 of validation become 20 of as many as fit, one of
validation for every five, and its schedule ends with them. And --gpu-memory, the planner's own
option, if given: it decides how many slices a batch has, and the default of 8 GB leaves few
iterations to a short budget.

    python -m benchmarks.contenders.nnunet --gpu-memory 1 --set paths.prepared=prepared
"""

import os
from functools import partial
from importlib.util import find_spec

from benchmarks.contenders import contest
from config import parse_arguments
from system.console import run_script
from system.cores import CORES
from system.files import InputError, save_json

DATASET = "Dataset001_Lesion"
EPOCHS, TRAINING_PER_VALIDATION = 20, 5
MEASURED_STEPS = 3


def add_arguments(parser):
    contest.add_arguments(parser)
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GB", help="that the planner plans for; its default: 8"
    )


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    if find_spec("nnunetv2") is None:
        raise InputError("nnunetv2 is not installed; pip install -r requirements/contenders.txt")
    memory = arguments.gpu_memory
    name = f"nnunet-{memory:g}gb" if memory else "nnunet"
    folder, trained = contest.contender_folder(settings, arguments, name)
    contest.set_up_process()
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(folder / kind)
    os.environ |= {"nnUNet_n_proc_DA": str(CORES), "nnUNet_def_n_proc": str(CORES)}
    # Scans that are gone or changed are said now, not after the training.
    test = [] if arguments.train_only else contest.cases_of(settings, "test")
    if not trained:
        train(folder, memory, settings, contest.Budget.given(arguments))
    if test:
        predict(make_trainer(settings.seed), test, settings, folder)
        contest.score(folder, test, settings)


def train(folder, memory, settings, budget):
    """Prepare the scans as nnU-Net does, and train within the budget."""
    import torch

    write_dataset(folder, settings)
    plan(memory)
    trainer = make_trainer(settings.seed)
    trainer.on_train_start()
    step_s = budget.cost(partial(iterate, trainer.train_step, trainer.dataloader_train))
    trainer.network.eval()
    with torch.no_grad():
        validate_s = budget.cost(partial(iterate, trainer.validation_step, trainer.dataloader_val))
    trainer.on_train_end()
    step_s, validate_s = step_s / MEASURED_STEPS, validate_s / MEASURED_STEPS
    steps = budget.steps(EPOCHS, step_s + validate_s / TRAINING_PER_VALIDATION)
    print(
        f"{EPOCHS} epochs of {steps} iterations of {step_s:.2f} s, in validation {validate_s:.2f}"
    )

    trainer = make_trainer(settings.seed)
    trainer.num_epochs, trainer.num_iterations_per_epoch = EPOCHS, steps
    trainer.num_val_iterations_per_epoch = max(1, steps // TRAINING_PER_VALIDATION)
    chosen = trainer.configuration_manager
    facts = {"batch": chosen.batch_size, "patch": list(chosen.patch_size), "steps": steps}
    facts |= {"epochs": EPOCHS, "step_s": step_s, "validation_iteration_s": validate_s}
    budget.spend(trainer.run_training, folder, **facts)


def write_dataset(folder, settings):
    """Lay out the scans that may train or validate as nnU-Net wants them."""
    cases = {subset: contest.cases_of(settings, subset) for subset in ("training", "validation")}
    raw = folder / "raw" / DATASET
    for kind in ("imagesTr", "labelsTr"):
        (raw / kind).mkdir(parents=True)
    for case in cases["training"] + cases["validation"]:
        save_brain(case, settings, raw / "imagesTr" / f"{case.name}_0000.nii.gz")
        (raw / "labelsTr" / f"{case.name}.nii.gz").symlink_to(case.masks[0].resolve())
    save_json(
        raw / "dataset.json",
        {
            "channel_names": {"0": "T1"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": len(cases["training"] + cases["validation"]),
            "file_ending": ".nii.gz",
        },
    )
    names = {subset: [case.name for case in own] for subset, own in cases.items()}
    save_json(
        folder / "preprocessed" / DATASET / "splits_final.json",
        [{"train": names["training"], "val": names["validation"]}],
    )


def save_brain(case, settings, path):
    """Save what our networks see of a scan that lies on the template's grid."""
    import nibabel

    from scans.geometry import look_at
    from scans.volumes import load_volume, to_original_grid

    volume = load_volume(case.image)
    seen = look_at(volume, settings.geometry, case.alignment)
    nibabel.save(to_original_grid(seen.volume.voxels, volume), path)


def plan(memory):
    """Run nnU-Net's fingerprint extraction, planner and 2D preprocessor."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([1], num_processes=CORES, check_dataset_integrity=True)
    api.plan_experiments([1], gpu_memory_target_in_gb=memory)
    api.preprocess([1], configurations=["2d"], num_processes=[CORES])


def make_trainer(seed):
    """Return nnU-Net's own trainer of its 2D configuration, on a GPU where there is one."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.manual_seed(seed)  # of the initial weights; its workers draw as they like
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return get_trainer_from_args(DATASET, "2d", 0, device=device)


def iterate(step, batches):
    for _ in range(MEASURED_STEPS):
        step(next(batches))


def predict(trainer, cases, settings, folder):
    """Write the masks of some scans by nnU-Net's own predictor, with its mirrored copies.

    Those that are there stay, but for the last, in the writing of which it may have been stopped.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    images, masks = folder / "raw" / DATASET / "imagesTs", folder / "predictions"
    for place in (images, masks):
        place.mkdir(parents=True, exist_ok=True)
    if there := sorted(masks.glob("*.nii.gz"), key=lambda file: file.stat().st_mtime_ns):
        there[-1].unlink()
    files = [images / f"{case.name}_0000.nii.gz" for case in cases]
    for case, file in zip(cases, files, strict=True):
        save_brain(case, settings, file)
    predictor = nnUNetPredictor(device=trainer.device)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    predictor.predict_from_files(
        [[str(file)] for file in files],
        [str(masks / case.masks[0].name.removesuffix(".nii.gz")) for case in cases],
        overwrite=False,
        num_processes_preprocessing=1,
        num_processes_segmentation_export=1,
    )


if __name__ == "__main__":
    run_script(main)
