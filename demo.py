"""Write two small data sets that look like ATLAS v2.0 and BraTS17, from the MNI152 template alone.

Reads   config.yaml (`paths`, `demo`, `seed`) and the ICBM152 2009a T1 inside nilearn's wheel
Writes  <paths.atlas>/Training/R00*/sub-*/ses-1/anat/*_{T1w,mask}.nii.gz   197x233x189, RAS
        <paths.brats17>/{HGG,LGG}/Brats17_*/Brats17_*_{t1,seg}.nii.gz      240x240x155, LPS

Each subject draws from its own generator, so it is the same whatever the number of subjects or
processes. Finished subjects are skipped: an interrupted run goes on where it stopped.

    python demo.py --config configs/demo.yaml
"""

import gzip
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np

from synthetic.heads import (
    acquire,
    draw_person,
    draw_scanner,
    paint_lesion,
    paint_look_alikes,
    paint_tumour,
)
from system.console import read_settings, run
from system.files import InputError, load_json, save_json, whole_file
from system.parallel import CORES, in_parallel

ATLAS_DATASET, BRATS_DATASET = 0, 1  # second word of every seed, so that the two sets share nothing
ATLAS_SITES = ("R001", "R009", "R027", "R038", "R047")
BRATS_SHAPE = (240, 240, 155)
BRATS_AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)


def lesion_volume_ml(index, seed):
    """Volume of subject `index`: log-normal as in ATLAS, median 6 ml, 0.15 to 190 ml.

    Quantiles advance by the golden ratio, so that already a few subjects cover the whole range.
    """
    start = np.random.default_rng([seed, ATLAS_DATASET]).random()
    quantile = np.clip((start + index * 0.6180339887) % 1, 0.001, 0.999)
    return float(np.clip(6 * np.exp(1.3 * NormalDist().inv_cdf(quantile)), 0.15, 190))


def save_nifti(path, volume, affine):
    """Save a volume whole or not at all: same bytes for same content, gzip's fastest level."""
    import nibabel as nib

    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def make_atlas_subject(index, folder, seed):
    """Write scan and mask of one ATLAS-like subject, unless both exist."""
    site_number, number = index % len(ATLAS_SITES), index // len(ATLAS_SITES) + 1
    site = ATLAS_SITES[site_number]
    subject = f"sub-{site.lower()}s{number:03d}"
    stem = f"{subject}_ses-1_space-MNI152NLin2009aSym"
    anat = Path(folder) / "Training" / site / subject / "ses-1" / "anat"
    scan, lesion = anat / f"{stem}_T1w.nii.gz", anat / f"{stem}_label-L_desc-T1lesion_mask.nii.gz"
    if scan.exists() and lesion.exists():
        return
    rng = np.random.default_rng([seed, ATLAS_DATASET, index])
    scanner = draw_scanner(np.random.default_rng([seed, ATLAS_DATASET, 10**6 + site_number]))
    image, anatomy, affine = draw_person(rng, scanner)
    paint_look_alikes(rng, image, anatomy, scanner)
    mask = paint_lesion(rng, image, anatomy, scanner, lesion_volume_ml(index, seed))
    save_nifti(scan, acquire(rng, image, scanner), affine)
    save_nifti(lesion, mask, affine)


def onto_brats_grid(volume):
    """Move a volume from the template's RAS grid to BraTS's LPS grid; both have 1 mm voxels."""
    turned = volume[::-1, ::-1, : BRATS_SHAPE[2]]
    missing = np.subtract(BRATS_SHAPE, turned.shape)
    return np.pad(turned, np.stack([missing // 2, missing - missing // 2], axis=1))


def make_brats17_subject(index, folder, seed):
    """Write T1 and labels of one BraTS-like subject, unless both exist."""
    low_grade = index % 3 == 2
    letters = "".join(chr(ord("A") + index // 26**k % 26) for k in (1, 0))
    institution = (f"2013_{index + 1}", f"CBICA_A{letters}", f"TCIA_{index + 101}")[index % 3]
    subject = f"Brats17_{institution}_1"
    case = Path(folder) / ("LGG" if low_grade else "HGG") / subject
    scan, labels = case / f"{subject}_t1.nii.gz", case / f"{subject}_seg.nii.gz"
    if scan.exists() and labels.exists():
        return
    rng = np.random.default_rng([seed, BRATS_DATASET, index])
    scanner = draw_scanner(rng)
    image, anatomy, _ = draw_person(rng, scanner)
    tumour = paint_tumour(rng, image, anatomy, scanner, low_grade)
    stripped = np.where(anatomy[..., 1] < 0, acquire(rng, image, scanner), 0).astype(np.int16)
    save_nifti(scan, onto_brats_grid(stripped), BRATS_AFFINE)
    save_nifti(labels, onto_brats_grid(tumour), BRATS_AFFINE)


def make_all(make_subject, folder, subjects, seed, processes):
    """Write every subject of one data set into `folder`, with a progress bar.

    Raises
    ------
    InputError
        If the folder holds anything else, real scans above all, or the scans of another seed.
    """
    folder = Path(folder)
    description = folder / "dataset_description.json"
    content = {"Name": "Synthetic scans made by demo.py", "BIDSVersion": "1.6.0", "Seed": seed}
    occupied = folder.is_dir() and any(folder.iterdir())
    if occupied and load_json(description, "give demo.py folders of its own") != content:
        raise InputError(f"{folder}: holds other scans than those of seed {seed}; delete it first")
    save_json(description, content)
    task = partial(make_subject, folder=folder, seed=seed)
    for result in in_parallel(task, range(subjects), folder.name, processes):
        result()


def make_atlas(folder, subjects, seed, processes):
    """Write `subjects` scans with stroke masks in the layout of ATLAS v2.0."""
    make_all(make_atlas_subject, folder, subjects, seed, processes)


def make_brats17(folder, subjects, seed, processes):
    """Write `subjects` scans with tumour labels in the layout of BraTS17."""
    make_all(make_brats17_subject, folder, subjects, seed, processes)


def threshold_baseline(settings):
    """Segment the lesions by intensity alone: what a network has to beat.

    The band of 8-bit grey levels with the highest pooled Dice on the training slices is applied to
    the validation slices, the very pixels on which the stages measure theirs.

    Returns
    -------
    dict
        ``dice``, ``precision`` and ``recall`` on the validation slices, and the ``band``.
    """
    from scans.slices import SliceReader, load_manifest
    from scans.splits import load_split, rows_of

    folder = settings.paths.prepared
    rows = load_manifest(folder, "atlas")
    part = rows_of(rows, load_split(folder, "atlas", settings.fold))
    reader = SliceReader(folder, rows)

    def cumulative_counts(numbers):
        counts = np.zeros((2, 256))
        for number in numbers:
            image, mask = reader.read(number)
            counts[0] += np.bincount(image.ravel(), minlength=256)
            counts[1] += np.bincount(image[mask > 0], minlength=256)
        return np.pad(counts.cumsum(1), ((0, 0), (1, 0)))

    def overlap(counts, low, high):
        marked, both = counts[:, high + 1] - counts[:, low]
        return 2 * both / (marked + counts[1, -1]), both / max(marked, 1), both / counts[1, -1]

    training = cumulative_counts(part["training"])
    bands = [(low, high) for low in range(256) for high in range(low, 256)]
    best = max(bands, key=lambda band: overlap(training, *band)[0])
    figures = overlap(cumulative_counts(part["validation"]), *best)
    return dict(zip(("dice", "precision", "recall"), figures, strict=True)) | {"band": best}


def print_end(settings):
    """Print the table of the demo's stages beside the baseline, and where the pictures are."""
    from training.pictures import print_results

    print_results(settings.paths.runs)
    baseline = threshold_baseline(settings)
    low, high = baseline["band"]
    print(
        f"{'threshold':12}{'':7}{'':12}{baseline['dice']:8.3f}{baseline['precision']:11.3f}"
        f"{baseline['recall']:8.3f}{'':9}   (lesions by grey level alone, {low} to {high})"
    )
    runs = Path(settings.paths.runs).resolve()
    print(f"\npictures, one folder a stage: {runs}/*/learning_curves.png and predictions.png")


def main(argv=None):
    settings, arguments = read_settings(
        __doc__, argv, results="print the results of the demo's stages instead of making scans"
    )
    if arguments.results:
        return print_end(settings)
    make_atlas(settings.paths.atlas, settings.demo.atlas_subjects, settings.seed, CORES)
    make_brats17(settings.paths.brats17, settings.demo.brats17_subjects, settings.seed, CORES)


if __name__ == "__main__":
    run(main)
