"""Some files of the fuzz (benchmarks/fuzz.py): no file, however broken, ends in more than one line."""

import gzip

import pytest

from benchmarks import fuzz

FILES, SEED = 300, 1


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return fuzz.make_good(tmp_path_factory.mktemp("good"))


def test_broken_files_are_read_or_refused_in_one_line(tmp_path, good):
    accepted = 0
    for number in range(FILES):
        content, ending = fuzz.mutant(SEED, number)
        path = tmp_path / f"scan{ending}"
        path.write_bytes(content)
        wrong, good_for_something = fuzz.fault(path, good)
        assert wrong is None, f"python benchmarks/fuzz.py --seed {SEED} --only {number}\n{wrong}"
        accepted += good_for_something
    # Were all of them refused, or none, then only one way through the reader would be tried.
    assert FILES / 10 < accepted < FILES / 2


def test_the_same_number_gives_the_same_file():
    assert fuzz.mutant(SEED, 7) == fuzz.mutant(SEED, 7)
    assert len({fuzz.mutant(SEED, number) for number in range(50)}) == 50


def test_every_valid_file_is_accepted(tmp_path, good):
    """So that what is refused is refused for what the fuzz did to it."""
    for content in fuzz.valid_files():
        for path, written in ((tmp_path / "a.nii", content), (tmp_path / "a.nii.gz", None)):
            path.write_bytes(written or gzip.compress(content))
            assert fuzz.fault(path, good) == (None, True)


@pytest.mark.parametrize("error", [KeyError, MemoryError, RuntimeWarning, AssertionError])
def test_whatever_is_no_refusal_is_found(tmp_path, good, monkeypatch, error):
    def fails(*_):
        raise error("of a reader")

    monkeypatch.setattr(fuzz, "load_volume", fails)
    (tmp_path / "a.nii").write_bytes(fuzz.valid_files()[0])
    wrong, _ = fuzz.fault(tmp_path / "a.nii", good)
    assert f"{error.__name__}: " in wrong


@pytest.mark.slow
def test_a_reader_that_takes_too_much_memory_or_crashes_is_found(tmp_path, monkeypatch):
    """The whole way, over a process of its own: the limits hold, and the rest is still read."""
    script = tmp_path / "fuzz.py"
    lines = (
        fuzz.Path(fuzz.__file__)
        .read_text("utf-8")
        .replace(
            "sys.path.insert(0, str(Path(__file__).parents[1]))",
            f"sys.path.insert(0, {str(fuzz.Path(fuzz.__file__).parents[1])!r})",
        )
    )
    fails = "bytearray(3 * 2**30) if number == 1 else signal.raise_signal(9) if number == 2 else 0"
    lines = lines.replace(
        "            wrong, accepted =", f"            {fails}\n            wrong, accepted ="
    )
    script.write_text(lines, "utf-8")
    monkeypatch.setattr(fuzz, "__file__", str(script))
    found = {entry["ended"]: entry["fault"] for entry in fuzz.read_in_child(SEED, range(4))}
    assert found.keys() == {0, 1, 2, 3}
    assert "MemoryError" in found[1]
    assert "exit code -9" in found[2]
    assert found[0] is found[3] is None
