"""Two small data sets of synthetic scans, in the layouts of ATLAS v2.0 and BraTS17.

Each subject draws from its own generator, so it is the same whatever the number of subjects or
processes.
"""

from functools import partial
from pathlib import Path
from statistics import NormalDist

import nibabel
import numpy as np

from scans.nifti import save_nifti
from scans.template import AFFINE
from synthetic.heads import acquire, draw_person, draw_scanner
from synthetic.lesions import paint_lesion, paint_look_alikes, paint_tumour
from system.files import InputError, load_json, save_json
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


def make_atlas_subject(index, folder, seed):
    """Write scan and mask of one ATLAS-like subject, unless both exist."""
    site_number = index % len(ATLAS_SITES)
    scan, lesion = atlas_files(folder, ATLAS_SITES[site_number], index // len(ATLAS_SITES) + 1)
    if scan.exists() and lesion.exists():
        return
    rng = np.random.default_rng([seed, ATLAS_DATASET, index])
    scanner = draw_scanner(np.random.default_rng([seed, ATLAS_DATASET, 10**6 + site_number]))
    image, anatomy = draw_person(rng, scanner)
    paint_look_alikes(rng, image, anatomy, scanner)
    mask = paint_lesion(rng, image, anatomy, scanner, lesion_volume_ml(index, seed))
    save_scan(scan, acquire(rng, image, scanner), AFFINE)
    save_scan(lesion, mask, AFFINE)


def atlas_files(folder, site, number):
    """Name scan and mask of a site's subject as ATLAS v2.0 does."""
    subject = f"sub-{site.lower()}s{number:03d}"
    stem = f"{subject}_ses-1_space-MNI152NLin2009aSym"
    anat = Path(folder) / "Training" / site / subject / "ses-1" / "anat"
    return anat / f"{stem}_T1w.nii.gz", anat / f"{stem}_label-L_desc-T1lesion_mask.nii.gz"


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
    image, anatomy = draw_person(rng, scanner)
    tumour = paint_tumour(rng, image, anatomy, scanner, low_grade)
    stripped = np.where(anatomy[..., 1] < 0, acquire(rng, image, scanner), 0).astype(np.int16)
    save_scan(scan, onto_brats_grid(stripped), BRATS_AFFINE)
    save_scan(labels, onto_brats_grid(tumour), BRATS_AFFINE)


def make_all(make_subject, folder, subjects, seed, processes=CORES):
    """Write every subject of one data set into `folder`, with a progress bar."""
    folder = Path(folder)
    claim_folder(folder, seed)
    task = partial(make_subject, folder=folder, seed=seed)
    for _ in in_parallel(task, list(range(subjects)), folder.name, processes):
        pass


def claim_folder(folder, seed, sources=None):
    """Write down what the scans of a folder are made of.

    A folder that holds anything else, real scans above all, or scans of another seed or of other
    `sources`, raises an `InputError`.
    """
    description = folder / "dataset_description.json"
    content = {
        "Name": "Synthetic scans made by demo.py",
        "BIDSVersion": "1.6.0",
        "GeneratedBy": [{"Name": "Lacuna"}],
        "Seed": seed,
    }
    content |= sources or {}
    occupied = folder.is_dir() and any(folder.iterdir())
    found = load_json(description, "give demo.py folders of its own") if occupied else content
    if not isinstance(found, dict) or found.get("Name") != content["Name"]:
        raise InputError(f"{folder}: holds scans that demo.py did not make; give it another folder")
    if found != content:
        same = f"seed {seed}" + (
            " and of these heads and lesions, by this version" if sources else ""
        )
        raise InputError(f"{folder}: holds other scans than those of {same}; delete it first")
    save_json(description, content)


def make_atlas(folder, subjects, seed, processes=CORES):
    """Write `subjects` scans with stroke masks in the layout of ATLAS v2.0."""
    make_all(make_atlas_subject, folder, subjects, seed, processes)


def make_brats17(folder, subjects, seed, processes=CORES):
    """Write `subjects` scans with tumour labels in the layout of BraTS17."""
    make_all(make_brats17_subject, folder, subjects, seed, processes)


def save_scan(path, volume, affine):
    """Save a volume in mm, at gzip's fastest level."""
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    save_nifti(image, path, compresslevel=1)
