"""The manifest says whose slices they are, names stay names, and a broken one is refused."""

import pandas
import pytest
from conftest import ATLAS_SHAPE, SKIP, refused

from scans.manifest import COLUMNS, load_manifest


@pytest.mark.parametrize("dataset", ["atlas", "brats17"])
def test_the_manifest_says_whose_slices_they_are(prepared, dataset):
    rows, depth = load_manifest(prepared, dataset), ATLAS_SHAPE[2]
    assert set(rows.dataset) == {dataset}
    for _, scan in rows.groupby(["subject", "session"]):
        assert scan.z.tolist() == list(range(SKIP, depth - SKIP))
        assert scan.position.tolist() == list(range(depth - 2 * SKIP))
        assert scan.content.nunique() == scan.site.nunique() == 1
    assert rows.content.nunique() == rows.groupby(["subject", "session"]).ngroups
    assert rows.site.nunique() == 3


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["not found", "prep.py first"]),
        ("", ["not a table"]),
        ("subject,z\nsub-1,0\n", ["not a table"]),
        ("a,b\n1,2\n3,4,5,6\n", ["not a table"]),
        (",".join(COLUMNS) + "\n" + "x," * 11 + "x\n", ["not a table"]),
        (b"\xff\xfe\xff", ["not a table"]),
        (",".join(COLUMNS) + "\n", ["no slices of atlas", "paths.atlas"]),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path, content, parts):
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "slices.csv").write_bytes(content)
    with refused(tmp_path / "slices.csv", *parts):
        load_manifest(tmp_path, "atlas")


def test_names_that_look_like_numbers_or_gaps_stay_names(tmp_path):
    values = {"dataset": "atlas", "subject": "007", "session": "", "site": "NA", "content": "1e5"}
    row = {name: values.get(name, "a.npy" if name in ("image", "mask") else 1) for name in COLUMNS}
    pandas.DataFrame([row]).to_csv(tmp_path / "slices.csv", index=False)
    (found,) = load_manifest(tmp_path, "atlas").to_dict("records")
    assert values.items() <= found.items()
