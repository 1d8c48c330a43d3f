"""Training scans as many as wanted: lesion shapes of strokes painted into heads of healthy people.

Each subject draws from its own generator, so it is the same whatever the number of subjects or
processes. Every site has heads and lesion shapes of its own: with `split.by: site` a network is
validated on heads and shapes that it never saw.
"""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from scans.find import LOOKS_LIKE_A_MASK, list_files
from scans.names import NIFTI_ENDINGS, stem_of
from scans.nifti import check_is_file
from scans.template import AFFINE
from scans.volumes import read_voxels
from synthetic.controls import anatomy_file, load_anatomy, prepare_control
from synthetic.datasets import atlas_files, claim_folder, lesion_volume_ml, save_scan
from synthetic.heads import head
from synthetic.lesion_shapes import draw_tissue, fit_into, level_of, load_shape, vary_shape
from synthetic.lesions import paint_lesion, paint_perivascular_spaces, paint_region
from synthetic.variety import acquire_by, draw_aged, draw_protocol, sharpen, take_off
from system.files import InputError, Problem, file_hash, save_text
from system.parallel import CORES, attempt, in_parallel

PAINTER = 4  # raised by whatever changes the scans of a seed, so that no folder mixes two painters
PAINTED_DATASET = 2  # second word of every seed; see synthetic.datasets
SITES = 10
HEALTHY = 0.15  # share of the subjects that have no lesion
SHARPNESS = 0.42  # SD of the blur that a voxel is, as a share of its side
PIECES = (0.5, 0.3, 0.2)  # share of the others that have one, two and three of the shapes


def find_sources(paths, masks):
    """List the NIfTI files among files and folders: the masks, or what is not named like a mask.

    Raises
    ------
    InputError
        If a path does not exist, or holds no such file.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: not found; give NIfTI files, or folders of them")
        files, problems = list_files(path) if path.is_dir() else ([path], [])
        if problems:
            raise InputError(str(problems[0]))
        files = [file for file in files if file.name.endswith(NIFTI_ENDINGS)]
        if path.is_dir():
            files = [
                file for file in files if bool(LOOKS_LIKE_A_MASK.search(stem_of(file))) == masks
            ]
        if not files:
            kind = "lesion mask" if masks else "T1-weighted scan"
            raise InputError(f"{path}: holds no {kind} (.nii, .nii.gz); give another folder")
        for file in files:
            check_is_file(file)
        found += files
    return found


def make_painted(folder, heads, lesions, subjects, seed, processes=CORES):
    """Write `subjects` scans in the layout of ATLAS v2.0, with masks that are empty for the healthy.

    `heads` and `lesions` are from `find_sources`; where one is empty, the template is the head, or
    lesions are drawn. Those that cannot be used, and copies of another, are left out; returns them as
    problems.
    """
    folder, problems = Path(folder), []
    heads, lesions = (drop_copies(files, problems) for files in (heads, lesions))
    shapes = usable(check_shape, lesions, "lesions", processes, problems)
    if lesions and not shapes:
        raise InputError(str(problems[-1]))
    lesions = shapes
    sources = {"Heads": heads, "Lesions": lesions}
    made_of = {name: digest(files) for name, files in sources.items()}
    claim_folder(folder, seed, made_of | {"Painter": PAINTER})
    kept = folder / "derivatives" / "heads"
    prepare = partial(prepare_control, folder=kept)
    prepared = usable(prepare, heads, "heads", processes, problems)
    anatomies = [anatomy_file(path, kept) for path in prepared]
    if heads and not anatomies:
        raise InputError(str(problems[-1]))
    # No more sites than there are heads or shapes, so that each has its own.
    sites = min([SITES, *(len(sources) for sources in (anatomies, lesions) if sources)])
    numbers = list(range(subjects))
    save_participants(folder, [painted_files(folder, number, sites)[0] for number in numbers])
    make = partial(
        make_subject, folder=folder, sites=sites, anatomies=anatomies, lesions=lesions, seed=seed
    )
    usable(make, numbers, folder.name, processes, problems, "subject ")
    return problems


def drop_copies(files, problems):
    """Return files without copies of one another, which are added to the problems.

    Or a network would be validated on a head or shape of one site that it has learnt from another.
    """
    first = {}
    for file in files:
        same = first.setdefault(file_hash(file), file)
        if same.resolve() != file.resolve():
            problems.append(Problem(str(file), f"is a copy of {same}; one is enough"))
    return list(first.values())


def usable(function, items, label, processes, problems, prefix=""):
    """Call a function of each item; return those it does not refuse, and add to the problems why not."""
    outcomes = in_parallel(partial(attempt, function), items, label, processes)
    kept = []
    for item, outcome in zip(items, outcomes, strict=True):
        if outcome.error:
            problems.append(Problem.of(outcome.error, f"{prefix}{item}"))
        else:
            kept.append(item)
    return kept


def check_shape(path):
    """Refuse a lesion mask that is unreadable or empty: hours later only its subjects would lack."""
    if not read_voxels(path).voxels.any():
        raise InputError(f"{path}: marks nothing; leave it out")


def digest(files):
    """Return how many files there are and a hash of what is in them."""
    content = "".join(file_hash(path) for path in files)
    return {"Files": len(files), "Content": hashlib.sha256(content.encode()).hexdigest()[:16]}


def painted_files(folder, index, sites):
    """Name scan and mask of a subject, of one of `sites` in turn."""
    # P for painted: no subject of ATLAS has such a name, so that none is taken for another.
    return atlas_files(folder, f"P{index % sites + 1:03d}", index // sites + 1)


def save_participants(folder, images):
    """Write participants.tsv, by which prep.py knows the sites of `images` and of earlier ones."""
    images = [*images, *sorted(folder.rglob("*_T1w.nii.gz"))]
    rows = dict.fromkeys(f"{image.parents[2].name}\t{image.parents[3].name}" for image in images)
    save_text(folder / "participants.tsv", "\n".join(["participant_id\tsite", *rows, ""]))


def make_subject(index, folder, sites, anatomies, lesions, seed):
    """Write scan and mask of one subject, unless both exist."""
    image_file, mask_file = painted_files(folder, index, sites)
    if image_file.exists() and mask_file.exists():
        return
    site = index % sites
    rng = np.random.default_rng([seed, PAINTED_DATASET, index])
    heads, shapes = anatomies[site::sites], lesions[site::sites]
    if heads:
        anatomy, voxel_mm = load_anatomy(heads[rng.integers(len(heads))])
    else:
        anatomy, voxel_mm = head(), 1.0
    voxels, mask = draw_subject(rng, anatomy, voxel_mm, shapes, lesion_volume_ml(index, seed))
    save_scan(image_file, voxels, AFFINE)
    save_scan(mask_file, mask, AFFINE)


def draw_subject(rng, anatomy, voxel_mm, lesions, volume_ml):
    """Draw one subject's scan, int16, and mask, uint8, on the template's grid.

    `anatomy` is as `synthetic.heads.head` returns it, from a scan with voxels of `voxel_mm`.
    `lesions` are masks in MNI space; where there are none, a lesion of `volume_ml` is drawn.
    """
    protocol = draw_protocol(rng)
    healthy, anatomy = draw_aged(rng, anatomy, protocol.scanner)
    image = healthy.copy()
    # No pockets of CSF: they look like small strokes of the cortex, which must be found.
    paint_perivascular_spaces(rng, image, anatomy)
    mask = np.zeros(image.shape, np.uint8)
    if rng.random() >= HEALTHY:
        if lesions:
            for _ in range(rng.choice([1, 2, 3], p=PIECES)):
                shape = load_shape(lesions[rng.integers(len(lesions))])
                paint_shape(rng, image, mask, healthy, anatomy, protocol.scanner, shape)
        else:
            mask = paint_lesion(rng, image, anatomy, protocol.scanner, volume_ml)
    # What is painted must not be sharper than its head, or sharpness is what a network learns.
    if voxel_mm > 1:
        image = healthy + gaussian_filter(image - healthy, SHARPNESS * voxel_mm)
    voxels = acquire_by(protocol, rng, sharpen(rng, image))
    take_off(rng, voxels, anatomy, protocol)
    return voxels, mask


def paint_shape(rng, image, mask, healthy, anatomy, scanner, shape):
    """Paint a shape, varied, into `image`, which was `healthy`, and mark it in `mask`."""
    grey, depth_mm = anatomy[..., 0], anatomy[..., 1]
    brain = (depth_mm < 0) & ((grey > 0.42) | (depth_mm > -12))  # without its ventricles
    box, shape = fit_into(*vary_shape(rng, shape), brain)
    tissue = draw_tissue(rng)
    if shape.any():
        # With one level for grey and white matter, lesions of the cortex could not be seen.
        paint_region(rng, image, box, level_of(shape), scanner, tissue, healthy[box])
        mask[box] |= shape
