"""Masks packed as the ATLAS challenge takes them."""

import json
import zipfile
from pathlib import Path

from scans.names import identify, session_label
from system.files import InputError, refuse_foreign, whole_file

NAME = "atlas2_prediction"


def pack_challenge(planned, path):
    """Pack the masks of `prediction.outputs.Outputs` in a zip file: same bytes for same masks."""
    about = {
        "Name": NAME,
        "BIDSVersion": "1.6.0",
        "PipelineDescription": {"Name": NAME},
        "GeneratedBy": [{"Name": "Lacuna"}],
    }
    content = {"dataset_description.json": json.dumps(about, indent=2).encode()}
    content |= {name: own.mask.read_bytes() for name, own in _names_in_archive(planned).items()}
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(content):
            # No date: ZipInfo's own is 1980.
            archive.writestr(zipfile.ZipInfo(name), content[name])
    print(f"challenge: {path}")


def _names_in_archive(planned):
    """Name the mask of each scan; refuse scans not named as the challenge names them, or alike."""
    named = {}
    for outputs in planned:
        subject, _, _ = identify(Path(outputs.scan.name))
        if not outputs.mask_stem.startswith(subject) or not outputs.mask_stem.endswith("_mask"):
            raise InputError(
                f"{outputs.scan}: --challenge needs names as sub-r001s001_ses-1_..._T1w"
            )
        name = outputs.mask.name.replace("_label-L_desc-lesion_mask", "_label-L_mask")
        (session,) = session_label(outputs.scan.name) or ["1"]
        place = f"{subject}/ses-{session}/anat/{name}"
        if place in named:
            raise InputError(
                f"{outputs.scan}: --challenge has one place for it and {named[place].scan}; "
                "leave one of the two out"
            )
        named[place] = outputs
    return named


def check_archive(path, planned):
    """Refuse to replace another archive of that name, and scans that cannot be packed."""
    _names_in_archive(planned)
    try:
        with zipfile.ZipFile(path) as archive:
            ours = b"Lacuna" in archive.read("dataset_description.json")
    except (OSError, KeyError, zipfile.BadZipFile):
        ours = False
    refuse_foreign(path.parent, [path.name], ours, "predict.py")
