"""Write two small data sets that look like ATLAS v2.0 and BraTS17, from the MNI152 template alone.

Reads   config.yaml (`paths`, `demo`, `seed`) and the ICBM152 2009a T1 inside nilearn's wheel
Writes  <paths.atlas>/Training/R00*/sub-*/ses-1/anat/*_{T1w,mask}.nii.gz   197x233x189, RAS
        <paths.brats17>/{HGG,LGG}/Brats17_*/Brats17_*_{t1,seg}.nii.gz      240x240x155, LPS

With --heads (T1-weighted scans of healthy people, on any grid) or --lesions (masks of strokes in MNI
space), files or folders of them, it makes strokes alone, of these heads and shapes: as many as
wanted, in scans of every contrast and resolution, some with no lesion.

Started again, it goes on with the subjects that are not done yet.

    python demo.py --config configs/demo.yaml
    python demo.py --set paths.atlas=datasets/painted --heads controls --lesions masks --subjects 500
"""

from pathlib import Path

from config import parse_arguments
from system.console import run_script
from system.files import InputError


def add_arguments(parser):
    parser.add_argument(
        "--results",
        action="store_true",
        help="print the results of the demo's stages instead of making scans",
    )
    paths = {"nargs": "+", "type": Path, "default": [], "metavar": "PATH"}
    parser.add_argument("--heads", help="scans of healthy people; default: the template", **paths)
    parser.add_argument("--lesions", help="lesion masks in MNI space; default: drawn", **paths)
    parser.add_argument("--subjects", type=int, metavar="N", help="in place of demo.atlas_subjects")


def main(argv=None):
    settings, arguments = parse_arguments(__doc__, argv, add_arguments)
    subjects = settings.demo.atlas_subjects if arguments.subjects is None else arguments.subjects
    if subjects < 1:
        raise InputError(f"--subjects {subjects}: must be 1 or more")
    from synthetic.datasets import claim_folder, make_atlas, make_brats17
    from synthetic.painted import find_sources, make_painted
    from synthetic.threshold import print_threshold
    from training.results import print_results

    paths, seed = settings.paths, settings.seed
    if arguments.results:
        print_results(paths.runs)
        print_threshold(paths.prepared, settings.fold, settings.split.by)
        print(f"\npictures: {Path(paths.runs).resolve()}/*/learning_curves.png and predictions.png")
    elif arguments.heads or arguments.lesions:
        heads = find_sources(arguments.heads, masks=False)
        lesions = find_sources(arguments.lesions, masks=True)
        problems = make_painted(paths.atlas, heads, lesions, subjects, seed)
        for problem in problems:
            print(f"left out {problem}")
        return 1 if problems else 0
    else:
        for folder in (paths.atlas, paths.brats17):  # both are free, or nothing is made
            claim_folder(Path(folder), seed)
        make_atlas(paths.atlas, subjects, seed)
        make_brats17(paths.brats17, settings.demo.brats17_subjects, seed)
    return 0


if __name__ == "__main__":
    run_script(main)
