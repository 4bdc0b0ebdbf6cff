"""What a suite runs, and in which time: turns, the results file that makes a run resumable, the budget.

Nothing here starts a process. A turn is one fresh cluster of one system with all its phases; its result is one JSON line.
"""

import dataclasses
import json
import math
import pathlib
import time

from clusters import Failed, say
from common import KIB, MIB, median

# What a turn of each part measures, one after the other.
PHASES = {
    "sizes": ("get", "scan", "put"),
    "memory": ("get", "scan", "put"),
    "ycsb": ("a", "b", "c", "f", "d", "e"),
    "time": ("overwrite",),
    "raw": ("disk", "echo", "echo"),
}
# What the raw limits are measured under, as a system of its own.
RAW = "raw"
# A measured phase is never shorter, nor longer, than this, in seconds, and a number of tenths.
SHORTEST, LONGEST = 1.0, 10.0
TENTHS = range(round(SHORTEST * 10), round(LONGEST * 10) + 1)
# The phase that shows throughput over time takes so many times as long.
OVER_TIME = 8


@dataclasses.dataclass(frozen=True, order=True)
class Turn:
    """One system under one part of the suite. `size` is the bytes of a value."""

    part: str
    system: str
    size: int
    repetition: int


def turns_of(options):
    """All turns of a suite in the order in which they run.

    Repetition by repetition, so that what a short budget leaves out is repetitions and not systems. Within one cell the
    systems follow each other, forwards and backwards in turn, and the raw limits are measured in their midst.
    """
    return [
        Turn(part, system, size, repetition)
        for repetition in range(options.repetitions)
        for part, size, systems in cells_of(options, repetition)
        for system in (systems if repetition % 2 == 0 else systems[::-1])
    ]


def cells_of(options, repetition):
    """(part, size, systems) of one repetition."""
    cells = []
    for size in options.sizes:
        middle = len(options.systems) // 2
        cells.append(("sizes", size, options.systems[:middle] + [RAW] + options.systems[middle:]))
    cells.append(("memory", options.memory_size, options.memory_systems))
    cells.append(("ycsb", options.ycsb_size, options.ycsb_systems))
    if repetition == 0:
        # One look each: the series has its own repetitions within it.
        cells.append(("time", options.ycsb_size, options.time_systems))
    return [(part, size, list(systems)) for part, size, systems in cells if systems]


def measured_part(turn):
    """The part that a turn's length follows: raw limits are probes of their own."""
    return "raw" if turn.system == RAW else turn.part


def keys_of(options, turn):
    """Number of keys loaded before a turn's measured phases."""
    volume = options.memory_volume if turn.part == "memory" else options.volume
    # Keys and what an engine keeps with each count too.
    keys = min(volume // (turn.size + ENTRY_BYTES), options.keys_max)
    # Small values are to leave the memtables too, whatever keys_max says.
    return max(options.keys_min, keys, options.memtables // (turn.size + KEY_BYTES))


# Bytes of a key and its bookkeeping in an engine, about; and of those that a memtable has for certain.
ENTRY_BYTES, KEY_BYTES = 48, 24


# Rows that all scanning clients together have asked for, at most: a scan is to be short beside a phase, and the load
# generator's memory beside the machine's.
SCANNED_BYTES = 128 * MIB


def scan_clients_of(options, size, length):
    """Clients that scan: as many as told, fewer where their rows are large."""
    return max(1, min(options.scan_clients, SCANNED_BYTES // (size * length)))


# Bytes of values that loading clients together have in flight, at most, when they are more than those that measure.
LOADED_BYTES = 512 * KIB


def load_clients_of(options, size):
    """Clients that load: as many as measure, more where values are small, or loading them would be most of a run."""
    return max(options.clients, min(options.load_clients, LOADED_BYTES // size))


class Lengths:
    """How long turns take: what earlier ones took, else a guess from what they load."""

    # Assumed until a turn of the kind has run: seconds to start and stop, and rates of loading.
    START_SECONDS = 4
    LOAD_BYTES_PER_SECOND = 60 * MIB
    LOAD_KEYS_PER_SECOND = 20_000

    def __init__(self, options, done=()):
        self.options = options
        self.overheads = {}
        for record in done:
            self.learn(record)

    def learn(self, record):
        """Takes what a turn took beyond its measured phases. A failed one says nothing."""
        if "failed" in record:
            return
        turn = turn_of(record)
        overhead = record["took"] - self.measured(turn, record["seconds"])
        self.overheads.setdefault((measured_part(turn), turn.size), []).append(max(overhead, 0))

    def measured(self, turn, seconds):
        """Seconds of a turn that follow from the measured time of a phase."""
        part = measured_part(turn)
        if part == "raw":
            return len(PHASES[part]) * self.options.raw_seconds
        length = {"time": seconds * OVER_TIME, "ycsb": whole_seconds(seconds)}.get(part, seconds)
        return len(PHASES[part]) * (self.options.warmup + length)

    def overhead(self, turn):
        """Seconds of a turn beside that."""
        known = self.overheads.get((measured_part(turn), turn.size))
        if known:
            return median(known)
        if turn.system == RAW:
            return 1
        keys = keys_of(self.options, turn)
        load = keys * (turn.size + ENTRY_BYTES) / self.LOAD_BYTES_PER_SECOND + keys / self.LOAD_KEYS_PER_SECOND
        return self.START_SECONDS + load + self.options.settle

    def of(self, turn, seconds):
        """Seconds of the whole turn."""
        return self.overhead(turn) + self.measured(turn, seconds)

    def total(self, turns, seconds):
        """Seconds of all of them."""
        return sum(self.of(turn, seconds) for turn in turns)


def whole_seconds(seconds):
    """YCSB's property for the length of a run has no fractions."""
    return math.ceil(seconds)


def divide(turns, lengths, budget):
    """Measured seconds of a phase, as many as fit, and repetitions, so that the turns fit into `budget` seconds.

    The phases get shorter first, down to SHORTEST; only then are repetitions given up, the last ones first. One
    repetition always remains.
    """
    repetitions = 1 + max(turn.repetition for turn in turns)
    while True:
        kept = [turn for turn in turns if turn.repetition < repetitions]
        fitting = [tenths / 10 for tenths in TENTHS if lengths.total(kept, tenths / 10) <= budget]
        if fitting or repetitions == 1:
            return max(fitting, default=SHORTEST), repetitions
        repetitions -= 1


def turn_of(record):
    """The turn that a line of results is about."""
    return Turn(*(record[field.name] for field in dataclasses.fields(Turn)))


class Results:
    """The file of JSON lines: what is there is not run again."""

    # What must be the same in all turns of one file.
    FIXED = (
        "mode", "volume", "keys_min", "keys_max", "memtables", "clients", "load_clients", "scan_clients", "scan_length",
        "warmup", "memory_limit",
    )

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.lines = read_lines(self.path) if self.path.exists() else []
        self.file = None

    def of_kind(self, kind):
        return [line for line in self.lines if line.get("kind") == kind]

    def turns(self):
        """Results of finished turns, failed ones left out; of one turn that ran twice, the last."""
        return list({turn_of(line): line for line in self.of_kind("turn") if "failed" not in line}.values())

    def done(self):
        return {turn_of(line) for line in self.turns()}

    def spent(self):
        """Seconds that all turns took, failed ones included."""
        return sum(line["took"] for line in self.of_kind("turn"))

    def plan(self, options):
        """The plan that the file was begun with, if any. Failed when the options contradict it."""
        plans = self.of_kind("plan")
        if not plans:
            return None
        fixed = self.fixed(options)
        for name, value in plans[0]["fixed"].items():
            if fixed.get(name) != value:
                raise Failed(
                    f"{self.path} was begun with {name} {value}, not {fixed.get(name)}; "
                    "give the same options, or another --output"
                )
        return plans[0]

    def fixed(self, options):
        return {name: getattr(options, name) for name in self.FIXED}

    def add(self, kind, **fields):
        """Appends a line."""
        line = {"kind": kind, "unix": round(time.time(), 3)} | fields
        if self.file is None:
            self.file = open_at_line_start(self.path)
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.lines.append(line)


def read_lines(path):
    """The JSON lines of a file. One that a killed run has left torn is skipped, and said."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            say(f"{path}:{number}: not a JSON line, skipped")
    return lines


def open_at_line_start(path):
    """Opens a file for appending; a torn last line is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    file = open(path, "a")
    if torn:
        file.write("\n")
    return file


# A log writer takes at most so much into one group (its default).
GROUP_BYTES = 8 * MIB


def group_of(size, clients):
    """The largest group that so many clients can fill, each with one put in flight: what the raw disk is given."""
    return max(4 * KIB, min(GROUP_BYTES, size * clients))
