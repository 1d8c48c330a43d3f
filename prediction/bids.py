"""A BIDS data set's T1-weighted scans, and the derivative data set that is made from them."""

from pathlib import Path

from prediction.bids_outputs import SPACE, BidsOutputs
from prediction.outputs import BIDS_NAME
from scans.names import NIFTI_ENDINGS, stem_of
from system.files import (
    InputError,
    Problem,
    load_json,
    refuse_foreign,
    save_json,
    save_text,
    whole_file,
)
from system.locks import waiting_for_lock

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

- `*_label-L_desc-lesion_mask`: lesion or not; `*_probseg`: probability of lesion, all 0 where no lesion
  was marked in the scan. On the grid of the T1-weighted scan and, with `space-MNI152NLin2009aSym`, on that
  of the template, 1 mm.
- `*_xfm.txt`: the transform between them, for `antsApplyTransforms -i SCAN -r TEMPLATE -t FILE`.
- `lesions.tsv`: a row a lesion; `scans.tsv`: a row a scan, with why a mask may be wrong.
- `figures/`: two pictures of all scans; `figures/` beside each `anat/`: a picture of the scan.

A mask is a program's guess until a person has looked at it: decisions.tsv says who did, and
`*_desc-manual_mask` is what was accepted or mended. Not for diagnosis.
"""
# Entities that stand behind space- in a name.
AFTER_SPACE = ("split-", "recording-", "chunk-", "seg-", "den-")
GENERATED = {"Name": "Lacuna", "Description": "outlines of lesions by participant.py"}


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
        results = (*outputs.results, outputs.facts)
        if other := next((taken[path] for path in results if path in taken), None):
            reason = f"its results would overwrite those of {other}; leave one of the two out"
            problems.append(Problem(str(file), reason))
        else:
            taken |= dict.fromkeys(results, file)
            planned.append(outputs)
    if not planned:
        of = " of these labels" if participants or sessions else " (sub-*/**/anat/*_T1w.nii.gz)"
        raise InputError(str(problems[0]) if problems else f"{folder}: holds no T1w scan{of}")
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
        base = [e for e in kept if not e.startswith(("space-", "res-"))]
        space = next((e.removeprefix("space-") for e in kept if e.startswith("space-")), "T1w")
        after = [e for e in base if e.startswith(AFTER_SPACE)]
        before = [e for e in base if e not in after]
        template_stem = "_".join([*before, f"space-{SPACE}", *after, "label-L_desc-lesion"])
        transform_stem = "_".join([*base, f"from-{space}_to-{SPACE}_mode-image_xfm"])
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


def _mapping(value):
    return value if isinstance(value, dict) else {}


def _with_first(own, earlier, key, before=None):
    """Put an entry of ours first in a list to which a person may have added others.

    Ours is known by its `key`, which now is that of `own`, and was `before` in an earlier start.
    """
    ours = (own[key], before or own[key])
    entries = earlier if isinstance(earlier, list) else [earlier]
    entries = [entry for entry in entries if isinstance(entry, dict)]
    return [own, *(entry for entry in entries if entry.get(key) not in ours)]


def claim_derivatives(output, source):
    """Write what a derivative data set needs: its description, and what validators are to pass over.

    Further keys and lines that a person wrote into them stay. A folder that holds another data set,
    or the lesions of another one, raises an `InputError`.
    """
    file = output / "dataset_description.json"
    earlier = load_json(file, "repair it") if file.is_file() else {}
    ours = isinstance(earlier, dict) and GENERATED["Description"] in str(earlier.get("GeneratedBy"))
    names = [f"{stem}.{ending}" for stem in ("lesions", "scans") for ending in ("tsv", "json")]
    names += ["dataset_description.json", ".bidsignore", "README.md"]
    names += [f"figures/{name}" for name in ("where.png", "volumes.png")]
    refuse_foreign(output, names, ours, "participant.py")
    about = load_json(source / "dataset_description.json", "repair it")
    if not isinstance(about, dict) or not isinstance(about.get("Name"), str):
        raise InputError(f"{source / 'dataset_description.json'}: has no Name; give it one")
    origin = {"URL": source.resolve().as_uri()}
    origin |= {"DOI": about["DatasetDOI"]} if isinstance(about.get("DatasetDOI"), str) else {}
    authors = {"Authors": about["Authors"]} if isinstance(about.get("Authors"), list) else {}
    links = _mapping(earlier.get("DatasetLinks"))
    name = f"Lesions of {about['Name']}"
    # By its name: in a container every data set lies in one place, and one may have been moved.
    if earlier.get("Name", name) != name:
        raise InputError(
            f"{output}: holds the {earlier['Name']}; choose another folder for the {name}, or, if "
            f"they are of one data set, write it as Name in {file}"
        )
    save_json(
        file,
        authors
        | earlier
        | {
            "Name": name,
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": _with_first(GENERATED, earlier.get("GeneratedBy"), "Name"),
            "SourceDatasets": _with_first(
                origin, earlier.get("SourceDatasets"), "URL", links.get("raw")
            ),
            "DatasetLinks": links | {"raw": origin["URL"]},
        },
    )
    ignored = output / ".bidsignore"
    lines = ignored.read_bytes().splitlines() if ignored.exists() else []
    lines += [pattern.encode() for pattern in IGNORED if pattern.encode() not in lines]
    with whole_file(ignored) as temporary:
        temporary.write_bytes(b"\n".join([*lines, b""]))
    if not (output / "README.md").exists():
        save_text(output / "README.md", README)
