"""Figures from the lines of a results file: medians, ratios within repetitions, geometric means.

Nothing here starts a process or draws. Ratios are taken within one repetition, where both sides ran within minutes of
each other; a table shows their median and extremes.
"""

import dataclasses
import math

from clusters import NODES
from common import median, size_name
from suite import RAW, turn_of

# In this order in tables and plots; others follow by name.
ORDER = "nezha nezha-unary nezha:paper nezha-nogc original original-synced pasv dwisckey etcd".split()


def geometric_mean(values):
    """Of positive numbers; None of none."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median and the extremes that it comes from."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values, middle=None):
        """None when there are no values. `middle` where it is not their median."""
        values = [value for value in values if value is not None]
        if not values:
            return None
        return cls(median(values) if middle is None else middle, min(values), max(values))

    def text(self, digits=2):
        return f"{self.middle:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def text_of(spread):
    return spread.text() if spread else "-"


class Figures:
    """What a results file says, by part, system, size, operation and repetition."""

    def __init__(self, lines):
        self.facts = next((line for line in reversed(lines) if line.get("kind") == "facts"), {})
        self.plan = next((line for line in lines if line.get("kind") == "plan"), {})
        # What the last run left out; a later turn means that it was given more time.
        self.dropped = 0
        self.cells = {}
        # Turns that failed and were not run again since.
        self.failures = set()
        for line in lines:
            if line.get("kind") == "dropped":
                self.dropped = line["turns"]
            if line.get("kind") == "turn":
                self.dropped = 0
                turn = turn_of(line)
                cell = self.cells.setdefault((turn.part, turn.system, turn.size), {})
                if "failed" in line:
                    self.failures.add(turn)
                else:
                    cell[turn.repetition] = line
                    self.failures.discard(turn)

    def systems(self, part="sizes"):
        """Systems with a result, in their order."""
        found = {system for (at, system, _), cell in self.cells.items() if at == part and cell and system != RAW}
        return sorted(found, key=rank)

    def failing(self, part):
        """Systems with a failure and no result."""
        return sorted({turn.system for turn in self.failures if turn.part == part} - set(self.systems(part)), key=rank)

    def sizes(self, part="sizes"):
        return sorted({size for (at, _, size), cell in self.cells.items() if at == part and cell})

    def turns(self, part, system, size):
        """Results by repetition."""
        return self.cells.get((part, system, size), {})

    def values(self, part, system, size, read):
        """What `read` finds in each repetition, by repetition; what it does not find is left out."""
        found = {}
        for repetition, turn in self.turns(part, system, size).items():
            try:
                found[repetition] = read(turn)
            except (KeyError, TypeError):
                continue
        return {repetition: value for repetition, value in found.items() if value is not None}

    def middle(self, part, system, size, read):
        return median(self.values(part, system, size, read).values())

    def ratios(self, part, above, below, size, read):
        """One system over another, repetition by repetition."""
        over, under = (self.values(part, system, size, read) for system in (above, below))
        return {at: over[at] / under[at] for at in sorted(over.keys() & under.keys()) if under[at]}

    def ratio(self, part, above, below, size, read):
        return Spread.of(self.ratios(part, above, below, size, read).values())

    def mean_ratio(self, above, below, sizes, read, part="sizes"):
        """The geometric mean over sizes: of the medians, and the extremes of it and of those of single repetitions.

        Sizes without a ratio are left out; None when there is none. A repetition counts for the extremes when it has a
        ratio for every size that has one at all.
        """
        by_size = {size: self.ratios(part, above, below, size, read) for size in sizes}
        by_size = {size: ratios for size, ratios in by_size.items() if ratios}
        if not by_size:
            return None
        middle = geometric_mean(median(ratios.values()) for ratios in by_size.values())
        whole = set.intersection(*(set(ratios) for ratios in by_size.values()))
        means = [geometric_mean(ratios[at] for ratios in by_size.values()) for at in sorted(whole)]
        return Spread.of([*means, middle], middle)

    def share_of_disk(self, system, size, op="put"):
        """Bytes of values that all replicas take per second, of what as many raw writers sync in groups."""
        return self.share(system, size, lambda turn: turn["ops"][op]["mb"] * NODES, lambda raw: raw["disk_mb"])

    def share_of_echo(self, system, size, op, kind):
        """Operations of what an echo server without a store answers."""
        return self.share(system, size, lambda turn: turn["ops"][op]["rate"], lambda raw: raw[f"echo_{kind}"])

    def share(self, system, size, read, limit):
        reached, limits = self.values("sizes", system, size, read), self.values("sizes", RAW, size, limit)
        return Spread.of(reached[at] / limits[at] for at in reached.keys() & limits.keys() if limits[at])


def rank(system):
    name, _, settings = system.partition(":")
    known = system if system in ORDER else name
    return (ORDER.index(known) if known in ORDER else len(ORDER), system, settings)


def of(op, metric):
    """Reads a figure of an operation from a turn."""
    return lambda turn: turn["ops"][op][metric]


def latency(op, quantile):
    """Reads a latency in milliseconds."""
    return lambda turn: turn["ops"][op]["latency_us"][quantile] / 1000


def highest(name):
    """Reads a figure that each node has: that of the node where it is highest."""
    return lambda turn: max(turn[name])


@dataclasses.dataclass
class Table:
    """A table for a page or a terminal. Cells are texts."""

    title: str
    note: str
    columns: list
    rows: list

    def markdown(self):
        lines = [f"\n### {self.title}\n", self.note, "", f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in self.rows])


def by_system(figures, title, note, cell, part="sizes", systems=None):
    """A table of systems by value sizes; None when it would be empty."""
    sizes = figures.sizes(part)
    systems = figures.systems(part) if systems is None else systems
    rows = [[system] + [cell(system, size) for size in sizes] for system in systems]
    rows = [row for row in rows if any(text != "-" for text in row[1:])]
    return Table(title, note, ["system"] + [size_name(size) for size in sizes], rows) if rows else None
