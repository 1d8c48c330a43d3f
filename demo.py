"""Write two small data sets that look like ATLAS v2.0 and BraTS17, from the MNI152 template alone.

Reads   config.yaml (`paths`, `demo`, `seed`) and the ICBM152 2009a T1 inside nilearn's wheel
Writes  <paths.atlas>/Training/R00*/sub-*/ses-1/anat/*_{T1w,mask}.nii.gz   197x233x189, RAS
        <paths.brats17>/{HGG,LGG}/Brats17_*/Brats17_*_{t1,seg}.nii.gz      240x240x155, LPS

Started again, it goes on with the subjects that are not done yet.

    python demo.py --config configs/demo.yaml
"""

from pathlib import Path

from config import parse_arguments
from system.console import run_script


def main(argv=None):
    settings, arguments = parse_arguments(
        __doc__, argv, results="print the results of the demo's stages instead of making scans"
    )
    from synthetic.datasets import make_atlas, make_brats17
    from synthetic.threshold import print_threshold
    from training.results import print_results

    paths, seed = settings.paths, settings.seed
    if arguments.results:
        print_results(paths.runs)
        print_threshold(paths.prepared, settings.fold, settings.split.by)
        print(f"\npictures: {Path(paths.runs).resolve()}/*/learning_curves.png and predictions.png")
        return
    make_atlas(paths.atlas, settings.demo.atlas_subjects, seed)
    make_brats17(paths.brats17, settings.demo.brats17_subjects, seed)


if __name__ == "__main__":
    run_script(main)
