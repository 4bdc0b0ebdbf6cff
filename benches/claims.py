"""The paper's claims and this project's goals beside what was measured."""

import dataclasses

from common import KIB, size_name
from figures import Spread, Table, highest, latency, of, text_of

NOT_MEASURED = "not measured"
# What the paper says of averages over values of 1 KB to 256 KB: times as much as the system below.
PAPER = [
    ("put", "nezha", "original", 5.602),
    ("put", "nezha-nogc", "original", 5.647),
    ("put", "pasv", "original", 1.265),
    ("get", "nezha", "original", 1.125),
    ("scan", "nezha", "original", 1.726),
    ("scan", "nezha", "dwisckey", 3.089),
]


def under(system, settings):
    """A system under settings; the product is tuned."""
    return "nezha" if (system, settings) == ("nezha", "tuned") else f"{system}:{settings}"


def paper_sizes(figures):
    return [size for size in figures.sizes() if KIB <= size <= 256 * KIB]


def of_the_paper(figures):
    """The paper's averages beside ours, under its settings and under tuned ones; None without results."""
    rows = []
    for op, above, below, claim in PAPER:
        pairs = [(under(above, "paper"), under(below, "paper")), (under(above, "tuned"), under(below, "tuned"))]
        ours = [figures.mean_ratio(*pair, paper_sizes(figures), of(op, "rate")) for pair in pairs]
        mixed = figures.mean_ratio(under(above, "tuned"), under(below, "paper"), paper_sizes(figures), of(op, "rate"))
        if any([*ours, mixed]):
            rows.append([f"{op}: {above} over {below}", f"{claim:.3f}", *map(text_of, [ours[0], mixed, ours[1]])])
    sizes = ", ".join(map(size_name, paper_sizes(figures)))
    note = (
        f"Geometric means over {sizes}; extremes of single repetitions in brackets. The paper's prototype never syncs, "
        "reads without consensus, and runs on other machines; here every system syncs and reads linearizably."
    )
    columns = ["what", "the paper", "both as in the paper", "tuned over as in the paper", "both tuned"]
    return Table("The paper's claims", note, columns, rows) if rows else None


@dataclasses.dataclass
class Goal:
    """One row of the goals. `measured` is None when the results have nothing for it."""

    what: str
    bound: str
    measured: Spread
    met: bool

    def cells(self):
        verdict = {True: "met", False: "not met", None: NOT_MEASURED}[self.met]
        return [self.what, self.bound, text_of(self.measured), verdict]


def at_least(what, bound, measured):
    return Goal(what, f">= {bound:g}", measured, None if measured is None else measured.middle >= bound)


def at_most(what, bound, measured):
    return Goal(what, f"<= {bound:g}", measured, None if measured is None else measured.middle <= bound)


# Times as much as etcd, by the largest value size that the bound holds for, in bytes.
AGAINST_ETCD = [
    ("put", "nezha", [(KIB, 10), (16 * KIB, 6), (None, 5)]),
    ("put", "nezha-unary", [(4 * KIB, 3), (None, 4)]),
    ("get", "nezha", [(4 * KIB, 5), (16 * KIB, 2), (None, 1.5)]),
    ("get", "nezha-unary", [(None, 1.3)]),
    ("scan", "nezha", [(4 * KIB, 2), (None, 1.3)]),
]


def bound_at(size, bounds):
    return next(bound for largest, bound in bounds if largest is None or size <= largest)


def goals(figures):
    """The goals, as far as a suite like this can say something about them."""
    rows = []
    sizes = figures.sizes()
    for op, system, bounds in AGAINST_ETCD:
        for size in sizes:
            ratio = figures.ratio("sizes", system, "etcd", size, of(op, "rate"))
            rows.append(at_least(f"{op} {size_name(size)}: {system} over etcd", bound_at(size, bounds), ratio))
    for size in sizes:
        slower = figures.ratio("sizes", "nezha", "etcd", size, latency("put", "p99"))
        rows.append(at_most(f"p99 of put {size_name(size)}: nezha over etcd", 1, slower))
    for op, settings, bound in [
        ("put", "paper", 5.6),
        ("put", "tuned", 3),
        ("get", "paper", 1.13),
        ("get", "tuned", 1),
        ("scan", "paper", 1.73),
        ("scan", "tuned", 1),
    ]:
        ratio = figures.mean_ratio("nezha", f"original:{settings}", paper_sizes(figures), of(op, "rate"))
        rows.append(at_least(f"{op}, mean over 1-256 KiB: nezha over original:{settings}", bound, ratio))
    for size in sizes:
        if size >= 4 * KIB:
            written = Spread.of(figures.values("sizes", "nezha", size, highest("written")).values())
            rows.append(at_most(f"bytes written per logical byte, {size_name(size)}, unique puts", 1.05, written))
        if size >= 64 * KIB:
            rows.append(at_least(f"put {size_name(size)}: share of the raw disk", 0.7, figures.share_of_disk("nezha", size)))
    for size in figures.sizes("time"):
        rewritten = Spread.of(figures.values("time", "nezha", size, highest("rewritten")).values())
        rows.append(at_most(f"bytes written per logical byte, {size_name(size)}, overwrites with gc", 2.5, rewritten))
        held = Spread.of(figures.values("time", "nezha", size, most_held).values())
        rows.append(at_most(f"bytes of files over their bound (2 per live byte, and a floor), {size_name(size)}", 1, held))
    return rows


def most_held(turn):
    """The highest of the looks at space while keys were overwritten."""
    return max(held for _, _, held in turn["series"]["gc"] if held is not None)


def of_the_goals(figures):
    """The goals with what was measured; None without results."""
    rows = [goal.cells() for goal in goals(figures)]
    if all(row[-1] == NOT_MEASURED for row in rows):
        return None
    note = (
        "Median and extremes of the ratios of single repetitions. Restart, failover, snapshots, memory and the latency "
        "beside gc are measured by compare.py and collection.py."
    )
    return Table("Goals", note, ["goal", "bound", "measured", "verdict"], rows)
