"""Plots of a results file, as SVG and PNG. Needs matplotlib, and nothing but this module does."""

import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from claims import PAPER, under
from clusters import NODES
from common import median, size_name
from figures import highest, latency, of
from suite import PHASES, RAW
from tables import TITLES

# Okabe and Ito's palette: told apart with any kind of colour vision. Markers tell systems apart without colour.
STYLES = {
    "nezha": ("#0072B2", "o"),
    "nezha-unary": ("#56B4E9", "v"),
    "nezha-nogc": ("#009E73", "s"),
    "original": ("#D55E00", "^"),
    "original-synced": ("#8C510A", "P"),
    "pasv": ("#E69F00", "D"),
    "dwisckey": ("#CC79A7", "X"),
    "etcd": ("#555555", "*"),
}
OTHER = ("#000000", "h")
QUANTILES = {"p50": "50", "p90": "90", "p99": "99", "p999": "99.9", "max": "max"}
# Where a plot can show one size only.
ONE_SIZE = 16 << 10

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "svg.hashsalt": "nezha",
    }
)


def draw_all(figures, directory):
    """Draws every plot that the results have something for; returns (title, path of the SVG) of each."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (title, draw) in PLOTS.items():
        figure = draw(figures)
        if figure is None:
            continue
        for ending in ("svg", "png"):
            # Without a date: the same results give the same files.
            dated = {"Date": None} if ending == "svg" else None
            figure.savefig(directory / f"{name}.{ending}", dpi=150, bbox_inches="tight", metadata=dated)
        plt.close(figure)
        drawn.append((title, directory / f"{name}.svg"))
    return drawn


def style(system):
    """Colour and marker by engine, dashes for the paper's settings."""
    name, _, settings = system.partition(":")
    colour, marker = STYLES.get(name, OTHER)
    return {"color": colour, "marker": marker, "linestyle": "--" if settings == "paper" else "-"}


def line(axis, system, xs, ys, **more):
    hollow = {"markerfacecolor": "white"} if system.endswith(":paper") else {}
    axis.plot(xs, ys, label=system, linewidth=1.5, markersize=5, **style(system), **hollow, **more)


def size_axis(axis, sizes):
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [size_name(size) for size in sizes], rotation=45, ha="right")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("bytes of a value")


def plain(axis):
    """Numbers as people write them."""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def logarithmic(axis):
    """Several labels per power of ten: most panels span two or three."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    plain(axis)


def legend_below(figure, axes):
    """One legend for all panels, below them."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    if entries:
        columns = min(len(entries), 6)
        figure.legend(entries.values(), entries, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=columns)


def panels(count, width=4.2, height=3.6):
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    figure.get_layout_engine().set(w_pad=0.12)
    return figure, list(axes[0])


def by_size(figures, wanted, beside=None):
    """One panel per (title, label, read, whether the scale is logarithmic); systems over value sizes. None without results.

    `beside`: by title, what draws more into a panel.
    """
    systems, sizes = figures.systems(), figures.sizes()
    if not systems:
        return None
    figure, axes = panels(len(wanted))
    for axis, (title, label, read, powers) in zip(axes, wanted):
        for system in systems:
            points = [(size, figures.middle("sizes", system, size, read)) for size in sizes]
            points = [point for point in points if point[1] is not None]
            if points:
                line(axis, system, *zip(*points))
        size_axis(axis, sizes)
        if powers:
            logarithmic(axis)
        else:
            axis.set_ylim(bottom=0)
        (beside or {}).get(title, lambda _: None)(axis)
        axis.set_title(title)
        axis.set_ylabel(label)
    legend_below(figure, axes)
    return figure


def throughput(figures):
    return by_size(figures, [(TITLES[op], "operations per second", of(op, "rate"), True) for op in TITLES])


def bandwidth(figures):
    """As throughput, in bytes; with what the disk alone takes."""

    def raw_limit(axis):
        limits = [(size, figures.middle("sizes", RAW, size, lambda turn: turn["disk_mb"])) for size in figures.sizes()]
        limits = [(size, limit / NODES) for size, limit in limits if limit is not None]
        top = axis.get_ylim()[1]
        # The limit may be far above the systems, and they are what is to be read.
        if any(limit <= top * 2 for _, limit in limits):
            label = "raw disk, a third of three writers"
            axis.plot(*zip(*limits), color="black", linestyle=":", linewidth=1.2, label=label)
            axis.set_ylim(0, min(axis.get_ylim()[1], top * 2))

    wanted = [(TITLES[op], "values, MB/s", of(op, "mb"), False) for op in TITLES]
    return by_size(figures, wanted, {"Puts": raw_limit})


def amplification(figures):
    wanted = [
        ("Written", "bytes written per logical byte", highest("written"), False),
        ("Held on disk", "bytes on disk per logical byte", highest("stored"), False),
        ("CPU of the servers", "us per put", of("put", "cpu_us"), True),
    ]
    return by_size(figures, wanted)


def ratios(figures):
    """Product over the classic store, size by size, with the paper's averages as lines."""
    sizes = figures.sizes()
    settings = [at for at in ("paper", "tuned") if f"original:{at}" in figures.systems()]
    if "nezha" not in figures.systems() or not settings:
        return None
    claimed = {op: claim for op, above, below, claim in PAPER if (above, below) == ("nezha", "original")}
    figure, axes = panels(len(TITLES))
    for axis, op in zip(axes, TITLES):
        for at, name in enumerate(settings):
            below = under("original", name)
            points = [(x, figures.ratio("sizes", "nezha", below, size, of(op, "rate"))) for x, size in enumerate(sizes)]
            points = [(x + (at - (len(settings) - 1) / 2) * 0.4, ratio) for x, ratio in points if ratio]
            middles = [ratio.middle for _, ratio in points]
            reach = [[r.middle - r.low for _, r in points], [r.high - r.middle for _, r in points]]
            colour, hatch = ("#E69F00", "//") if name == "paper" else ("#0072B2", "")
            axis.bar(
                [x for x, _ in points], middles, 0.38, yerr=reach, label=f"over {below}", color=colour, hatch=hatch,
                edgecolor="white", error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
            )
        axis.axhline(claimed[op], color="#D55E00", linestyle="--", linewidth=1.5, label="the paper's average")
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks(range(len(sizes)), [size_name(size) for size in sizes], rotation=45, ha="right")
        axis.set_title(f"{TITLES[op]} (the paper: {claimed[op]:g})")
        axis.set_ylabel("times as many per second")
        axis.set_xlabel("bytes of a value")
        axis.grid(axis="x", visible=False)
    legend_below(figure, axes)
    return figure


def percentiles(figures):
    """Latency by percentile at one value size."""
    sizes = figures.sizes()
    if not sizes:
        return None
    size = ONE_SIZE if ONE_SIZE in sizes else sizes[len(sizes) // 2]
    figure, axes = panels(len(TITLES))
    for axis, op in zip(axes, TITLES):
        for system in figures.systems():
            values = [figures.middle("sizes", system, size, latency(op, name)) for name in QUANTILES]
            if None not in values:
                line(axis, system, range(len(QUANTILES)), values)
        axis.set_xticks(range(len(QUANTILES)), QUANTILES.values())
        logarithmic(axis)
        axis.set_title(f"{TITLES[op]}, values of {size_name(size)}")
        axis.set_ylabel("latency, ms")
        axis.set_xlabel("percentile")
    legend_below(figure, axes)
    return figure


def ycsb(figures):
    sizes, systems = figures.sizes("ycsb"), figures.systems("ycsb")
    if not systems:
        return None
    phases = ["load", *sorted(PHASES["ycsb"])]
    figure, (axis,) = panels(1, width=11)
    width = 0.85 / len(systems)
    for at, system in enumerate(systems):
        rates = [figures.middle("ycsb", system, sizes[0], of(phase, "rate")) or 0 for phase in phases]
        offset = (at - (len(systems) - 1) / 2) * width
        hatch = "////" if system.endswith(":paper") else ""
        places = [x + offset for x in range(len(phases))]
        axis.bar(places, rates, width, label=system, color=style(system)["color"], hatch=hatch, edgecolor="white", linewidth=0.3)
    axis.set_xticks(range(len(phases)), ["Load"] + [phase.upper() for phase in phases[1:]])
    axis.set_ylabel("operations per second")
    axis.set_title(f"YCSB, values of {size_name(sizes[0])}")
    axis.grid(axis="x", visible=False)
    plain(axis)
    legend_below(figure, [axis])
    return figure


def over_time(figures):
    """Acknowledged overwrites in each second; the background says when some node ran a job of gc."""
    runs = []
    for system in figures.systems("time"):
        for size in figures.sizes("time"):
            runs += [(system, size, turn["series"]) for turn in figures.turns("time", system, size).values()]
    if not runs:
        return None
    figure, axes = plt.subplots(
        len(runs), 1, figsize=(11, 2.4 * len(runs) + 0.4), layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    axes = list(axes[:, 0])
    for axis, (system, size, series) in zip(axes, runs):
        rates = series["puts_per_second"]
        axis.plot([second + 0.5 for second in range(len(rates))], rates, color=style(system)["color"], linewidth=1.5)
        for first, last in spans(series["gc"]):
            axis.axvspan(first, last, color="#009E73", alpha=0.18, linewidth=0, label="gc runs on some node")
        axis.set_ylim(bottom=0)
        axis.set_xlim(0, max(len(rates), 1))
        axis.set_ylabel("puts per second")
        axis.set_title(f"Overwrites of {size_name(size)}: {system}, median {median(rates) or 0:,.0f}/s")
        plain(axis)
    axes[-1].set_xlabel("seconds")
    legend_below(figure, axes)
    return figure


def spans(looks):
    """(first, last) second of each run of looks with a job; a look stands for the time since the one before it."""
    found, begun, before = [], None, 0
    for at, jobs, _ in looks:
        if jobs and begun is None:
            begun = before
        if not jobs and begun is not None:
            found.append((begun, before))
            begun = None
        before = at
    if begun is not None:
        found.append((begun, before))
    return [(max(first, 0), last) for first, last in found if last > 0]


PLOTS = {
    "throughput": ("Throughput by value size", throughput),
    "bandwidth": ("Bytes of values per second", bandwidth),
    "ratios": ("Times the classic store", ratios),
    "percentiles": ("Latency", percentiles),
    "amplification": ("Bytes written, space and CPU", amplification),
    "ycsb": ("YCSB", ycsb),
    "over-time": ("Throughput over time", over_time),
}
