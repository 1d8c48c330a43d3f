"""The report in a real browser: opens offline, answers, can be walked through, escapes names."""

import html
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import RAS, draw_head

from evaluation import report, viewer
from evaluation.cases import Case
from evaluation.comparison import Comparison, compare_runs, describe
from evaluation.metrics import subject_metrics
from evaluation.scoring import Scores, metrics_row
from evaluation.summary import save_evaluation
from scans.volumes import Volume

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
NASTY = "<script>alert(1)</script>&$x_1$"
MAX_BYTES = 30e6


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, as Debian packages it; asked for in CI, else passed over where missing."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None and not os.environ.get("CI"):
        pytest.skip("needs chromium (apt-get install chromium)")
    assert program, "CI needs chromium: see .ci/run"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root, as in containers.
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open a file; `.errors`, `.requests` and `.dialogs` are what came of it."""
    pages = []

    def open_file(path, viewport=DESKTOP):
        page = browser.new_page(viewport=viewport)
        pages.append(page)
        seen = SimpleNamespace(page=page, errors=[], requests=[], dialogs=[])
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on(
            "console",
            lambda message: message.type == "error" and seen.errors.append(message.text),
        )
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(path.absolute().as_uri())
        for frame in page.frames[1:]:
            frame.wait_for_function("window.viewer !== undefined")
        return seen

    yield open_file
    for page in pages:
        page.close()


def made_up(names, subjects, verdicts=0.0):
    """Rows of metrics.csv: each subject a little different, the last run better by `verdicts`."""
    rows = []
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1:5, 1:5, 1:5] = 1
    for number, name in enumerate(names):
        for i, subject in enumerate(subjects):
            case = Case(subject, "1", "R001", None, (Path("mask"),), None, 0, 0.0)
            metrics = subject_metrics(mask, mask, (1, 1, 1))
            better = verdicts * (number == len(names) - 1)
            metrics |= {"dice": 0.3 + 0.02 * i + better * (1 + i / 50), "lesion_volume_ml": 1 + i}
            rows.append(metrics_row(name, case, metrics))
    return rows


def view(shape=(28, 32, 16)):
    """A head, a mask on its left and a prediction that covers half of it and as much besides."""
    image, _ = draw_head(np.random.default_rng(0), shape, lesion_contrast=0.4, background=5)
    reference, prediction = np.zeros((2, *shape), np.uint8)
    reference[8:14, 10:20, 6:10] = 1
    prediction[11:17, 10:20, 6:10] = 1
    return Volume(image, RAS, None), reference, prediction


def write_report(path, rows, subset="test", folder="nowhere", view=view):
    names = list(dict.fromkeys(row["run"] for row in rows))
    facts = {name: {"folders": [folder], "folds": {0: [0]}, "of_folds": 5} for name in names}
    runs = {
        name: facts[name] | describe([row for row in rows if row["run"] == name], 0)
        for name in names
    }
    found = [compare_runs(rows, name, names[0], 0) for name in names[1:]]
    views = {(row["subject"], row["session"]): view for row in rows}
    report.save_report(path, subset, Scores(rows, facts, views), runs, found)
    return path


@pytest.fixture(scope="module")
def written(runs):
    return runs.folder / "evaluation" / "validation" / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_report_opens_offline_without_an_error_or_a_request(written, open_page, viewport):
    seen = open_page(written, viewport)
    assert seen.page.frames[1:], "no viewer"
    assert not seen.errors
    assert seen.requests == [written.absolute().as_uri()]
    width = seen.page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"]
    metrics = seen.page.locator("table.pieces").first
    assert metrics.evaluate("table => table.offsetWidth <= table.parentElement.clientWidth")


@pytest.mark.slow
def test_the_report_begins_with_the_answer_and_tells_every_scan(written, open_page):
    page = open_page(written).page
    assert "transfer learning helped or hurt" in page.inner_text("h1")
    assert "chosen on these very scans" in page.inner_text("main")
    page.click("text=Every scan, every metric")
    shown = page.inner_text("details[open]")
    csv = (written.parent / "metrics.csv").read_text().splitlines()[1:]
    for line in csv:
        run, subject, session = line.split(",")[:3]
        assert re.search(rf"{run}\s+{subject}\s+{session}", shown)
    for stage in ("Training on stroke lesions", "Transfer to stroke lesions"):
        assert page.locator(f"svg >> text={stage}").count() == 1


def test_three_heads_of_full_size_fit_into_thirty_megabytes():
    page, _ = viewer.slice_viewer(*view((197, 233, 189)))
    assert len(page) < MAX_BYTES / 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("marked", [0, 1])
def test_a_head_of_which_nothing_or_all_is_marked_is_shown_without_a_warning(marked):
    volume, reference, prediction = view()
    page, _ = viewer.slice_viewer(volume, reference * 0 + marked, prediction * 0 + marked)
    assert "brainsprite(" in page


def shown_colours(frame):
    """Return the set of colours that the viewer's canvas shows, as 0xRRGGBB."""
    return set(
        frame.evaluate("""() => {
            const canvas = document.querySelector("canvas"), found = new Set();
            const data = canvas.getContext("2d")
                .getImageData(0, 0, canvas.width, canvas.height).data;
            for (let i = 0; i < data.length; i += 4)
                found.add(data[i] * 65536 + data[i + 1] * 256 + data[i + 2]);
            return [...found];
        }""")
    )


@pytest.mark.slow
def test_the_viewer_shows_what_is_missed_found_and_wrongly_marked(tmp_path, open_page):
    volume, reference, prediction = view()
    for kind, masks in {
        "missed": (reference, reference * 0),
        "found": (reference, reference),
        "wrongly marked": (reference * 0, prediction),
    }.items():
        file = tmp_path / f"{kind}.html"
        file.write_text(viewer.slice_viewer(volume, *masks)[0], "utf-8")
        colours = shown_colours(open_page(file).page.main_frame)
        wanted = {name: int(colour[1:], 16) for name, colour in viewer.COLOURS.items()}
        assert {name for name, colour in wanted.items() if colour in colours} == {kind}


@pytest.mark.slow
def test_the_viewer_begins_at_the_lesion_and_moves_by_click_key_and_wheel(written, open_page):
    page = open_page(written).page
    frame = page.frames[1]
    canvas = frame.locator("canvas")
    canvas.scroll_into_view_if_needed()

    def place():
        return frame.evaluate("() => ({...window.viewer.numSlice})")

    def picture():
        return frame.evaluate("() => window.viewer.canvas.toDataURL()")

    before, picture_before = place(), picture()
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.12, "y": box["height"] * 0.3})
    assert place() != before
    assert picture() != picture_before
    for key, axis, step in (
        ("PageUp", "Z", 1),
        ("PageDown", "Z", -1),
        ("ArrowUp", "Y", 1),
        ("ArrowDown", "Y", -1),
        ("ArrowRight", "X", 1),
        ("ArrowLeft", "X", -1),
    ):
        at, shown = place(), picture()
        canvas.press(key)
        assert place() == at | {axis: at[axis] + step}, key
        assert picture() != shown
    at = place()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.wheel(0, -100)
    frame.wait_for_function(f"window.viewer.numSlice.Z === {at['Z'] + 1}")
    slider = frame.locator("input[type=range]")
    shown = picture()
    slider.fill("10")
    assert picture() != shown


@pytest.mark.slow
def test_the_middle_of_the_viewer_is_the_middle_of_the_lesion(tmp_path, open_page):
    volume, reference, _ = view()
    file = tmp_path / "viewer.html"
    file.write_text(viewer.slice_viewer(volume, reference, reference)[0], "utf-8")
    page = open_page(file).page
    at_mm = page.evaluate("() => window.viewer.coordinatesSlice")
    low, high = (RAS @ np.array([8, 10, 6, 1]))[:3], (RAS @ np.array([13, 19, 9, 1]))[:3]
    found = np.array([at_mm[axis] for axis in "XYZ"])
    assert (found >= low).all()
    assert (found <= high).all()


@pytest.mark.slow
def test_names_are_text_and_never_run(tmp_path, open_page):
    rows = made_up(["train", NASTY], [f"{NASTY}{i}" for i in range(3)])
    seen = open_page(write_report(tmp_path / "report.html", rows))
    assert not seen.dialogs
    assert not seen.errors
    assert len(seen.requests) == 1
    assert NASTY in seen.page.inner_text("h1")
    assert f"{NASTY}2" in seen.page.inner_text("#scans ~ .viewers")
    titles = seen.page.evaluate(
        "Array.from(document.querySelectorAll('svg title'), t => t.textContent)"
    )
    assert any(title.startswith(f"{NASTY}0: ") for title in titles)
    # Long names are broken into lines, each a text of its own.
    for line in ("<script>alert(1)</", "script>&$x_1$"):
        assert seen.page.locator("svg text", has_text=line).count() >= 3


@pytest.mark.parametrize(
    ("by", "answer", "badge"),
    [
        (0.2, "Yes: second helped", "helped"),
        (-0.2, "No: second hurt", "hurt"),
        (0.0, "Not shown that second helped or hurt", "not shown"),
    ],
)
def test_the_answer_is_that_of_the_comparison(by, answer, badge, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    rows = made_up(["first", "second"], [f"s{i}" for i in range(12)], by)
    text = write_report(tmp_path / "report.html", rows).read_text("utf-8")
    assert f"<h1>{answer}</h1>" in text
    assert f'<span class="badge">{badge}</span>' in text


def by_both(dice):
    """Save the answer of runs by subject and by site; `dice` is the mean of each."""
    rows = []
    rng = np.random.default_rng(0)
    people = rng.normal(0, 0.02, 12)
    for run, mean in dice.items():
        for seed in (0, 1):
            noise = rng.normal(0, 0.002, 12)
            for i, (person, own) in enumerate(zip(people, noise, strict=True)):
                case = Case(f"s{i}", "1", f"R{i % 3}", None, (Path("mask"),), None)
                metrics = subject_metrics(np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, 1, 1))
                metrics["dice"] = mean + person + own
                rows.append(metrics_row(run, case, metrics, seed, i % 2))
    names = list(dice)
    facts = {
        name: {
            "folders": [f"nowhere/{name}"],
            "folds": {0: [0, 1], 1: [0, 1]},
            "of_folds": 2,
            "sites_held_out": "site" in name,
        }
        for name in names
    }
    return Scores(
        rows,
        facts,
        {(row["subject"], "1"): lambda: () for row in rows},
        [
            Comparison(names[1], names[0]),
            Comparison(names[3], names[2], sites_held_out=True),
            Comparison(names[2], names[0], cost=True),
            Comparison(names[3], names[1], cost=True),
        ],
    )


def test_whether_it_helped_heads_the_page_and_new_sites_and_costs_follow(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    dice = {"train": 0.5, "transfer": 0.6, "train by site": 0.45, "transfer by site": 0.35}
    save_evaluation(by_both(dice), "validation", tmp_path, 0)
    text = html.unescape((tmp_path / "report.html").read_text("utf-8"))
    answer = text.partition("<h2>Metrics</h2>")[0]
    assert "<h1>Yes: transfer helped</h1>" in answer
    assert "cross-validation over 2 folds, 2 seeds" in answer
    assert "Dice: transfer by site hurt" in answer
    assert answer.count("The cost of an unseen site: −0.") == 2
    assert "is more than seeds alone would make" in answer


@pytest.mark.parametrize(
    ("by_site", "headline"),
    [
        (0.4, "An unseen site costs 0."),
        (0.6, "An unseen site costs nothing: 0."),
        (0.5, "Not shown that an unseen site costs Dice"),
    ],
)
def test_the_cost_heads_the_page_where_nothing_else_is_compared(
    by_site, headline, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    scores = by_both({"train": 0.5, "unused": 0, "train by site": by_site, "unused by site": 0})
    kept = ("train", "train by site")
    scores = scores._replace(
        rows=[row for row in scores.rows if row["run"] in kept],
        runs={name: scores.runs[name] for name in kept},
        compared=[Comparison(*kept[::-1], cost=True)],
    )
    save_evaluation(scores, "validation", tmp_path, 0)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert f"<h1>{headline}" in text
    shown = "not shown" if "Not" in headline else "shown"
    assert f'<span class="badge">{shown}</span>' in text


def test_the_best_subject_is_so_over_all_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    rows = [row | {"seed": 0} for row in made_up(["run"], ["lucky", "even", "poor"])]
    rows += [row | {"seed": 1} for row in rows]
    for row, dice in zip(rows, (0.9, 0.6, 0.2, 0.1, 0.6, 0.2), strict=True):
        row["dice"] = dice
    text = write_report(tmp_path / "report.html", rows).read_text("utf-8")
    assert "<h3>best: even</h3>" in text and "<h3>median: lucky</h3>" in text
    assert "Dice 0.60 (run) (seed 0 is shown)" in text
    assert "over 2 seeds" in text


def test_the_best_subject_is_so_over_all_sessions(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    rows = made_up(["run"], ["lucky", "even", "poor"] * 2)
    for i, (row, dice) in enumerate(zip(rows, (0.9, 0.6, 0.5, 0.0, 0.6, 0.5), strict=True)):
        row |= {"dice": dice, "session": str(i // 3)}
    text = write_report(tmp_path / "report.html", rows).read_text("utf-8")
    assert "<h3>best: even</h3>" in text and "<h3>worst: lucky</h3>" in text


def test_a_run_json_of_another_program_is_none_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    (tmp_path / "run.json").write_text('{"status": "COMPLETED"}')
    rows = made_up(["masks"], ["a", "b"])
    page = write_report(tmp_path / "report.html", rows, subset=None, folder=str(tmp_path))
    assert "COMPLETED" not in page.read_text("utf-8")


def test_scans_without_lesion_are_not_shown_as_the_best_and_the_worst(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    names = ["clean", "good", "middling", "poor", "marked"]
    rows = made_up(["run"], names)
    for row, dice in zip(rows, (1.0, 0.8, 0.5, 0.2, 0.0), strict=True):
        row |= {"dice": dice, "lesion_volume_ml": 0.0 if row["subject"] in "clean marked" else 5.0}
    text = write_report(tmp_path / "report.html", rows).read_text("utf-8")
    assert "<h3>best: good</h3>" in text and "<h3>worst: poor</h3>" in text
    rows = [row for row in rows if row["lesion_volume_ml"] == 0]
    text = write_report(tmp_path / "healthy.html", rows).read_text("utf-8")
    assert "<h3>best: clean</h3>" in text and "<h3>worst: marked</h3>" in text


def test_long_names_of_runs_are_broken_between_folders(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(report, "slice_viewer", lambda *view: ("", 0.5))
    names = [f"data/runs_of_the_first_week/fold-*/{last}" for last in ("train", "transfer")]
    text = write_report(tmp_path / "report.html", made_up(names, ["a", "b", "c"])).read_text(
        "utf-8"
    )
    assert ">runs_of_the_first_week/<" in text
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.slow
def test_one_run_alone_has_its_dice_for_an_answer(tmp_path, open_page):
    rows = made_up(["nnU-Net"], ["a", "b", "c"])
    without_scan = lambda: (Volume(np.zeros((28, 32, 16)), RAS, None), *view()[1:])  # noqa: E731
    seen = open_page(write_report(tmp_path / "r.html", rows, subset=None, view=without_scan))
    assert not seen.errors
    assert seen.page.inner_text("h1").startswith("nnU-Net: Dice 0.320 ± 0.020")
