"""The report's plots, as SVG text: crisp at every width, each point named under the pointer."""

import io
import textwrap
from xml.etree import ElementTree

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from evaluation.formatting import signed
from evaluation.statistics import DECIMALS
from training.pictures import draw_curve

SVG = "{http://www.w3.org/2000/svg}"
# Okabe and Ito, 2008, as everywhere here; each run has a shape of its own as well.
RUNS = (("#009E73", "o"), ("#CC79A7", "D"), ("#56B4E9", "s"), ("#E69F00", "^"), ("#555555", "v"))
CHANGES = {"better": ("#222222", "-"), "equal": ("#999999", ":"), "worse": ("#D55E00", "--")}
# Letters of a run's name on a line: two of them fit beside each other.
NAME_WIDTH = 24
LEGEND_WIDTH = 36  # and of all the names beside each other in a legend
# Text stays text, so that it is read aloud and found; the same bytes for the same values.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False}


def style_of(number):
    """Return colour and marker of the run of that number."""
    return RUNS[number % len(RUNS)]


@matplotlib.rc_context(STYLE)
def paired_plot(table, run, baseline):
    """Draw each subject's Dice in two runs, columns of `table`, joined by a line; return SVG."""
    figure, panel = _figure(4.6, 4.2)
    names = {}
    for number, (subject, one, other) in enumerate(
        zip(table.index, table[run], table[baseline], strict=True)
    ):
        d = round(one - other, DECIMALS)
        change = "equal" if d == 0 else "better" if d > 0 else "worse"
        colour, line = CHANGES[change]
        names[f"pair-{number}"] = f"{subject}: {baseline} {other:.2f}, {run} {one:.2f}"
        panel.plot(
            (0, 1),
            (other, one),
            color=colour,
            ls=line,
            lw=1.4,
            marker="o",
            ms=4.5,
            alpha=0.75,
            gid=f"pair-{number}",
        )
    for change, (colour, line) in CHANGES.items():
        panel.plot([], [], color=colour, ls=line, marker="o", ms=4.5, lw=1.4, label=change)
    for at, name in ((-0.13, baseline), (1.13, run)):
        panel.plot(at, table[name].mean(), "D", color="black", ms=8, gid=f"mean-{at}")
        names[f"mean-{at}"] = f"mean of {name}: {table[name].mean():.2f}"
    panel.plot([], [], "D", color="black", ls="", label="mean")
    panel.set(xlim=(-0.35, 1.35), ylim=(-0.03, 1.03), ylabel="Dice of a subject")
    panel.set_xticks((0, 1), (_lines(baseline), _lines(run)))
    figure.legend(loc="outside upper left", ncols=4, frameon=False, columnspacing=1.2)
    return _svg(figure, names)


@matplotlib.rc_context(STYLE)
def volume_plot(table, runs):
    """Draw Dice against the lesion's volume, one point a run and subject; return SVG."""
    figure, panel = _figure(4.6, 4.2)
    names = {}
    for number, run in enumerate(runs):
        colour, marker = style_of(number)
        rows = table[(table.run == run) & (table.lesion_volume_ml > 0)]
        panel.plot([], [], marker, color=colour, ls="", label=_lines(run))
        for row in rows.itertuples():
            gid = f"volume-{number}-{len(names)}"
            names[gid] = f"{row.subject}: {row.lesion_volume_ml:.1f} ml, {run} {row.dice:.2f}"
            panel.plot(
                row.lesion_volume_ml,
                row.dice,
                marker,
                color=colour,
                ms=6.5,
                alpha=0.8,
                mec="white",
                mew=0.6,
                gid=gid,
            )
    panel.set(xscale="log", ylim=(-0.03, 1.03), xlabel="lesion volume, ml", ylabel="Dice")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda ml, _: f"{ml:g}"))
    # By itself matplotlib writes them as LaTeX; of many powers of ten they need no number.
    low, high = panel.get_xlim()
    between = "25" if high < 300 * low else ""
    panel.xaxis.set_minor_formatter(
        FuncFormatter(lambda ml, _: f"{ml:g}" if f"{ml:e}"[0] in between else "")
    )
    columns = max(1, min(3, LEGEND_WIDTH // max(map(len, runs))))
    figure.legend(loc="outside upper left", ncols=columns, frameon=False)
    return _svg(figure, names)


@matplotlib.rc_context(STYLE)
def agreement_plot(table, run, number):
    """Draw the agreement of predicted and true volumes, after Bland and Altman [1]_; return SVG.

    Against the mean of both volumes stands prediction minus mask, with their mean and the limits of
    agreement, mean ± 1.96 SD. `number` is that of the run, for its colour.

    References
    ----------
    .. [1] Statistical methods for assessing agreement between two methods of clinical measurement.
       Lancet 327:307, 1986.
    """
    figure, panel = _figure(4.6, 3.6)
    colour, marker = style_of(number)
    difference = table.volume_difference_ml
    middle = table.lesion_volume_ml + difference / 2
    names = {}
    for subject, x, y in zip(table.subject, middle, difference, strict=True):
        gid = f"agreement-{number}-{len(names)}"
        names[gid] = f"{subject}: mean {x:.1f} ml, difference {signed(y, 1)} ml"
        panel.plot(x, y, marker, color=colour, ms=6.5, alpha=0.8, mec="white", mew=0.6, gid=gid)
    mean = difference.mean()
    lines = {"mean": (mean, "-")}
    if len(table) > 1:
        reach = 1.96 * difference.std()
        lines |= {"+1.96 SD": (mean + reach, "--"), "−1.96 SD": (mean - reach, "--")}
    for label, (y, line) in lines.items():
        panel.axhline(y, color="#555555", lw=1.1, ls=line)
        panel.annotate(
            f"{label} {signed(y, 1)}",
            (1, y),
            xycoords=("axes fraction", "data"),
            fontsize=8.5,
            textcoords="offset points",
            xytext=(-2, 3),
            ha="right",
            color="#555555",
        )
    panel.axhline(0, color="#bbbbbb", lw=0.8)
    panel.margins(x=0.08, y=0.12)
    panel.set(xlabel="mean of mask and prediction, ml", ylabel="prediction − mask, ml")
    panel.set_title(_lines(run), loc="left", fontsize=11, fontweight="bold")
    return _svg(figure, names)


@matplotlib.rc_context(STYLE)
def curves_plot(history, title):
    """Draw Dice and loss of one stage against the epoch, the best epoch marked; return SVG."""
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    for panel, name in zip(figure.subplots(2, 1, sharex=True), ("dice", "loss"), strict=True):
        draw_curve(panel, history, name)
    panel.set_xlabel("epoch")
    handles, _ = panel.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return _svg(figure, {})


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    panel = figure.subplots()
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    return figure, panel


def _lines(name):
    """Break a long name into lines, between its folders where that is enough."""
    lines = textwrap.wrap(name.replace("/", "/ "), NAME_WIDTH, break_on_hyphens=False)
    return "\n".join(lines).replace("/ ", "/")


def _svg(figure, names):
    """Return a figure as SVG text that fits its column; `names` maps group ids to tooltips."""
    FigureCanvasSVG(figure)
    content = io.BytesIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", SVG.strip("{}"))
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(content.getvalue())
    for name in ("width", "height"):
        del root.attrib[name]
    for unused in root.findall(f"{SVG}metadata"):
        root.remove(unused)
    for group in root.iter(f"{SVG}g"):
        if group.get("id") in names:
            title = ElementTree.Element(f"{SVG}title")
            title.text = names[group.get("id")]
            group.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")
