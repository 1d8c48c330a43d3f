"""A BIDS data set's T1-weighted scans, and the derivative data set that is made from them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from prediction.outputs import BIDS_NAME, Outputs, read_facts, sidecar
from scans.find import NIFTI_ENDINGS, stem_of
from scans.template import AFFINE
from system.files import InputError, Problem, load_json, refuse_foreign, save_json, whole_file
from system.locks import waiting_for_lock

SPACE = "MNI152NLin2009aSym"
TEMPLATE = "https://www.bic.mni.mcgill.ca/~vfonov/icbm/2009/mni_icbm152_nlin_sym_09a_nifti.zip"
# What BIDS has no name for yet.
IGNORED = (
    "*.png",
    "*_xfm.txt",
    "figures",
    "lesions.*",
    "scans.*",
    "decisions.tsv",
    "report.html",
    ".*",
)
README = """# Lesions outlined by Lacuna

Made by `participant.py`; dataset_description.json says from what.

- `*_label-L_desc-lesion_mask`: lesion or not; `*_probseg`: probability of lesion, 0 everywhere where
  the mask is empty. On the grid of the T1-weighted scan and, with `space-MNI152NLin2009aSym`, on that
  of the template, 1 mm.
- `*_xfm.txt`: the transform between them, for `antsApplyTransforms -i SCAN -r TEMPLATE -t FILE`.
- `lesions.tsv`: a row a lesion; `scans.tsv`: a row a scan, with why a mask may be wrong.
- `figures/`: a picture a scan, and two of all.

A mask is a program's guess until a person has looked at it: decisions.tsv says who did, and
`*_desc-manual_mask` is what was accepted or mended. Not for diagnosis.
"""
GENERATED = {"Name": "Lacuna", "Description": "outlines of lesions by participant.py"}
MASK = {"Type": "Lesion", "Description": "lesions as a U-Net outlined them"}
PROBABILITY = {"Description": "probability of lesion; 0 everywhere where the mask is empty"}
# RAS, as here, to LPS, as ITK has it, and back.
_FLIP = np.diag([-1.0, -1, 1, 1])


@dataclass(frozen=True)
class BidsOutputs(Outputs):
    """A scan of a BIDS data set and its derivatives, on its own grid and on the template's.

    `raw` is the scan below the data set's folder; `template_stem` is empty where the scan itself is
    on the template's grid by name.
    """

    raw: str = ""
    template_stem: str = ""
    transform_stem: str = ""

    @property
    def picture(self):
        return self.folder.parent / "figures" / f"{self.mask_stem}.png"

    @property
    def alignment_picture(self):
        return self.picture.with_name(f"{self.mask_stem}_alignment.png")

    @property
    def transform(self):
        return self.folder / f"{self.transform_stem}.txt"

    @property
    def on_template(self):
        """The mask and the probability on the template's grid."""
        return [self.folder / f"{self.template_stem}_{kind}.nii.gz" for kind in ("mask", "probseg")]

    @property
    def results(self):
        own = [*super().results, sidecar(self.probability)]
        if self.template_stem:
            own += [self.transform, *self.on_template, *map(sidecar, self.on_template)]
        return tuple(own)

    def about_mask(self):
        return MASK | self._about(f"bids:raw:{self.raw}")

    def further_results(self, mask, probability, seen):
        where = f"bids:raw:{self.raw}"
        texts = {sidecar(self.probability): _json(PROBABILITY | self._about(where))}
        if not self.template_stem:
            return {}, texts
        sources = [where, f"bids::{Path(self.raw).parent.as_posix()}/{self.transform.name}"]
        brought = (seen.bring(mask) >= 0.5).astype(np.uint8), seen.bring(probability)
        images = {
            path: nibabel.Nifti1Image(voxels, AFFINE)
            for path, voxels in zip(self.on_template, brought, strict=True)
        }
        for image in images.values():
            image.header.set_xyzt_units("mm")
            image.header["sform_code"] = image.header["qform_code"] = 4  # MNI 152
        about = {"Sources": sources, "SpatialReference": TEMPLATE, "Resolution": "1 mm"}
        mask_file, probability_file = self.on_template
        texts[sidecar(mask_file)] = _json(MASK | about)
        texts[sidecar(probability_file)] = _json(PROBABILITY | about)
        to_scan = seen.alignment.to_scan if seen.alignment else np.eye(4)
        texts[self.transform] = as_itk(to_scan)
        return images, texts

    def _about(self, where):
        on_template = SPACE in self.mask_stem
        return {"Sources": [where], "SpatialReference": TEMPLATE if on_template else where}


def as_itk(to_scan):
    """Write a transform as ITK's text, for `antsApplyTransforms -i SCAN -r TEMPLATE`.

    Like all of ITK's it leads from the points of the result, the template's, to those of the scan.
    """
    matrix = _FLIP @ to_scan @ _FLIP
    numbers = " ".join(f"{value:.10g}" for value in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
    return (
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: MatrixOffsetTransformBase_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n"
    )


def plan_data_set(folder, output, participants=(), sessions=()):
    """List the T1-weighted scans of a BIDS data set, each with its outputs, and the problems.

    `participants` and `sessions`, if given, are the labels to be taken, with or without ``sub-`` and
    ``ses-``.

    Raises
    ------
    InputError
        If the folder is no BIDS data set, a label is not in it, or there is no such scan.
    """
    folder, output = Path(folder), Path(output)
    description = folder / "dataset_description.json"
    if not description.is_file():
        raise InputError(
            f"{description}: not found, so this is no BIDS data set; predict.py takes any folder"
        )
    if folder.resolve() == output.resolve():
        raise InputError(
            f"{output}: is the data set itself; give the derivatives a folder of their own"
        )
    subjects = _chosen(sorted(folder.glob("sub-*/")), participants, "sub-", folder)
    places = [place for subject in subjects for place in (subject, *sorted(subject.glob("ses-*/")))]
    if sessions:
        places = _chosen([p for p in places if p.name.startswith("ses-")], sessions, "ses-", folder)
    planned, problems, taken = [], [], {}
    for file in sorted(
        file
        for place in places
        for file in place.glob("anat/*_T1w.nii*")
        if file.name.endswith(NIFTI_ENDINGS) and not file.name.startswith(".")
    ):
        named = BIDS_NAME.fullmatch(stem_of(file))
        labels = [part for part in file.relative_to(folder).parts if part[:4] in ("sub-", "ses-")]
        if not named or named[1].split("_")[: len(labels) - 1] != labels[:-1]:
            problems.append(Problem(str(file), "not named as BIDS names a scan of this folder"))
            continue
        outputs = _outputs(file, folder, output, named[1])
        places = (*outputs.results, outputs.facts)
        if other := next((taken[place] for place in places if place in taken), None):
            reason = f"its results would overwrite those of {other}; leave one of the two out"
            problems.append(Problem(str(file), reason))
        else:
            taken |= dict.fromkeys(places, file)
            planned.append(outputs)
    if not planned:
        raise InputError(str(problems[0]) if problems else f"{folder}: no T1w scan of these labels")
    return planned, problems


def _chosen(folders, labels, prefix, folder):
    """Return the folders with these labels, or all if there are none; refuse a label without one."""
    if not labels:
        return folders
    wanted = {prefix + label.removeprefix(prefix) for label in labels}
    if missing := sorted(wanted - {found.name for found in folders}):
        raise InputError(f"{folder}: has no {', '.join(missing)}; leave that label out")
    return [found for found in folders if found.name in wanted]


def _outputs(file, folder, output, entities):
    kept = [e for e in entities.split("_") if not e.startswith(("label-", "desc-"))]
    stem = "_".join([*kept, "label-L_desc-lesion"])
    raw = file.relative_to(folder)
    template_stem = transform_stem = ""
    if f"space-{SPACE}" not in kept:
        base = "_".join(e for e in kept if not e.startswith(("space-", "res-")))
        space = next((e.removeprefix("space-") for e in kept if e.startswith("space-")), "T1w")
        template_stem = f"{base}_space-{SPACE}_label-L_desc-lesion"
        transform_stem = f"{base}_from-{space}_to-{SPACE}_mode-image_xfm"
    return BidsOutputs(
        file,
        output / raw.parent,
        f"{stem}_mask",
        f"{stem}_probseg",
        raw.as_posix(),
        template_stem,
        transform_stem,
    )


def taking_turns(output):
    """Let one of several jobs after another write what is of the whole data set."""
    return waiting_for_lock(output / ".participant.lock")


def claim_derivatives(output, source):
    """Write what a derivative data set needs: its description, and what validators are to pass over.

    A folder that holds another data set raises an `InputError`.
    """
    file = output / "dataset_description.json"
    ours = file.is_file() and GENERATED["Description"] in file.read_text("utf-8", "replace")
    names = [f"{stem}.{ending}" for stem in ("lesions", "scans") for ending in ("tsv", "json")]
    names += ["dataset_description.json", ".bidsignore", "README.md"]
    refuse_foreign(output, names, ours, "participant.py")
    about = load_json(source / "dataset_description.json", "repair it")
    about = about if isinstance(about, dict) else {}
    origin = {"URL": source.resolve().as_uri()}
    origin |= {"DOI": about["DatasetDOI"]} if isinstance(about.get("DatasetDOI"), str) else {}
    authors = {"Authors": about["Authors"]} if isinstance(about.get("Authors"), list) else {}
    save_json(
        file,
        {
            "Name": f"Lesions of {about.get('Name', source.resolve().name)}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [GENERATED],
            "SourceDatasets": [origin],
            "DatasetLinks": {"raw": source.resolve().as_uri()},
        }
        | authors,
    )
    for name, text in ((".bidsignore", "\n".join(IGNORED) + "\n"), ("README.md", README)):
        with whole_file(output / name) as temporary:
            temporary.write_text(text, "utf-8")


LESION_COLUMNS = {
    "participant_id": "as in the data set",
    "session_id": "as in the data set",
    "scan": "the T1-weighted image, below the data set's folder",
    "lesion": "number in the scan, the largest first",
    "volume_ml": "in the scan's own space",
    "side": "left or right, where nine tenths of the lesion lie there, else both",
    "x_mm": f"centre of the lesion in {SPACE}, positive to the right",
    "y_mm": f"centre of the lesion in {SPACE}, positive to the front",
    "z_mm": f"centre of the lesion in {SPACE}, positive to the top",
}
SCAN_COLUMNS = {
    "participant_id": "as in the data set",
    "session_id": "as in the data set",
    "scan": "the T1-weighted image, below the data set's folder",
    "lesions": "how many",
    "volume_ml": "of all lesions",
    "left_ml": "of what lies left of the middle",
    "right_ml": "of what lies right of the middle",
    "similarity": "of the edges of scan and template after alignment, 0 to 1",
    "certainty": "mean probability of what is marked; of an empty mask 1 - the highest",
    "warnings": "why the mask may be wrong",
}


def save_tables(output):
    """Write lesions.tsv, a row a lesion, and scans.tsv, a row a scan, of all that is in `output`.

    Returns the facts of the scans; see `prediction.outputs.read_facts`.
    """
    everything = [
        read_facts(path) for path in sorted(output.glob("sub-*/**/*_desc-lesion_mask.json"))
    ]
    # Of predict.py, in the same folder, there may be others.
    everything = [f for f in everything if "prediction" in f and _raw(f) is not None]
    scans, lesions = [], []
    for facts in everything:
        raw = _raw(facts)
        labels = {part[:4]: part for part in Path(raw).parts[:-1]}
        name = {
            "participant_id": labels["sub-"],
            "session_id": labels.get("ses-"),
            "scan": raw,
        }
        scans.append(facts["prediction"] | name)
        for number, lesion in enumerate(facts["lesions"], 1):
            lesions.append(name | {"lesion": number} | lesion)
    for stem, columns, rows in (
        ("lesions", LESION_COLUMNS, lesions),
        ("scans", SCAN_COLUMNS, scans),
    ):
        lines = ["\t".join(columns)]
        lines += ["\t".join(_cell(row.get(name)) for name in columns) for row in rows]
        with whole_file(output / f"{stem}.tsv") as temporary:
            temporary.write_text("\n".join(lines) + "\n", "utf-8")
        save_json(
            output / f"{stem}.json", {name: {"Description": text} for name, text in columns.items()}
        )
    return everything


def _raw(facts):
    """Return the scan that a mask is of, below its data set, or None."""
    source = next(iter(facts.get("Sources", ())), "")
    return source.removeprefix("bids:raw:") if source.startswith("bids:raw:sub-") else None


def _cell(value):
    """Write a value as BIDS has it in tables: n/a where there is none, no tab in a text."""
    return "n/a" if value in (None, "") else re.sub(r"\s+", " ", str(value))


def _json(content):
    return json.dumps(content, indent=2) + "\n"
