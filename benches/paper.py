#!/usr/bin/env python3
"""Runs the paper's comparison, or a shorter one with etcd, and prints its tables. See --help.

Every system is three processes on loopback, started anew for each turn and driven by the same load generator; systems
take turns within each repetition. Each turn is a JSON line in --output: what is there already is not run again, so an
interrupted run goes on where it was when it is started with the same options. Remove the file to begin anew.
benches/report.py makes a page with plots of it.
"""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import time

import common
import suite
import tables
from clusters import NODES, Failed, Nezha, say
from collection import Watch
from common import parse_size, size_name
from figures import Figures
from memory_limit import MemoryLimit
from suite import OVER_TIME, PHASES, RAW, Results, load_clients_of, scan_clients_of, whole_seconds

# A phase that writes a fixed number of keys may take so long, in seconds.
LOAD_LIMIT = 600
# What a put is answered with, about.
ANSWER_BYTES = 16
# Prefixes of keys: those that are read, and those that the measured puts add.
READ_KEYS, NEW_KEYS = "r/", "w/"

BASELINES = "nezha-nogc,original,original-synced,pasv,dwisckey".split(",")
MODES = {
    "paper": {
        "help": "the paper's table: put, get, scan over seven sizes, YCSB Load and A-F, all baselines; three hours",
        "systems": ["nezha", "nezha:paper"] + [f"{name}:{at}" for name in BASELINES for at in ("paper", "tuned")],
        "memory_systems": "nezha,original:paper,original:tuned,dwisckey:tuned",
        "time_systems": "nezha,original:tuned",
        "sizes": "64,256,1KiB,4KiB,16KiB,64KiB,256KiB",
        "volume": "256MiB",
        "keys_min": 500,
        "keys_max": 500_000,
        "memtables": "130MiB",
        "load_clients": 512,
        "minutes": 180,
        "repetitions": 3,
        "warmup": 1,
        "settle": 2,
    },
    "bench": {
        "help": "nezha through streams and through unary calls, etcd, original under both settings; 15 minutes",
        "systems": ["nezha", "nezha-unary", "etcd", "original:paper", "original:tuned"],
        "memory_systems": "none",
        "time_systems": "nezha",
        "sizes": "256,1KiB,4KiB,16KiB,64KiB,256KiB",
        "volume": "64MiB",
        "keys_min": 500,
        "keys_max": 100_000,
        "memtables": "0",
        "load_clients": 128,
        "minutes": 14,
        "repetitions": 2,
        "warmup": 0.5,
        "settle": 1,
    },
}


class Suite(common.Stage):
    """Runs turns."""

    def system(self, name):
        """A cluster of a system: nezha, nezha-unary (the same, driven by a call per operation), etcd, or an engine under
        settings, such as original:paper."""
        cluster = self.cluster({"nezha-unary": "nezha"}.get(name, f"baseline:{name}" if ":" in name else name))
        if name == "nezha-unary":
            cluster.driver = name
        return cluster

    def run(self, turn, seconds):
        """One turn on a fresh cluster; returns what was measured."""
        if turn.system == RAW:
            return self.raw(turn)
        with contextlib.ExitStack() as stack:
            cluster = self.system(turn.system)
            if turn.part == "memory":
                cluster.join = stack.enter_context(MemoryLimit(self.options.memory_limit)).join
            stack.enter_context(cluster)
            phases = {"sizes": self.reads_and_puts, "memory": self.reads_and_puts, "ycsb": self.ycsb, "time": self.over_time}
            try:
                return phases[turn.part](cluster, turn, seconds)
            finally:
                # Two of three answer too, and faster; and a failure is told by what the ended one said last.
                cluster.check_running()

    def reads_and_puts(self, cluster, turn, seconds):
        """Loads the same keys into every system, reads them, then measures puts on top of them."""
        keys = suite.keys_of(self.options, turn)
        measured = self.loaded(cluster, turn.size, keys)
        cluster.collect()
        known = ["--no-load", "--keys", keys, "--key-prefix", READ_KEYS]
        length = min(self.options.scan_length, keys)
        phases = {
            "get": (self.options.clients, known),
            "scan": (scan_clients_of(self.options, turn.size, length), known + ["--scan-length", length]),
            "put": (self.options.clients, ["--unique", "--key-prefix", NEW_KEYS]),
        }
        for name in PHASES[turn.part]:
            clients, extra = phases[name]
            result = self.load(cluster, name, turn.size, clients, seconds=seconds, extra=extra)
            measured["ops"][name] = of_load(result)
        return measured

    def loaded(self, cluster, size, keys):
        """Writes the keys that are read later; notes what that cost the disk."""
        before = cluster.written()
        extra = ["--unique", "--keys", keys, "--key-prefix", READ_KEYS]
        clients = load_clients_of(self.options, size)
        result = self.load(cluster, "put", size, clients, seconds=LOAD_LIMIT, warmup=0, extra=extra)
        if result["run_ops"] < keys:
            raise Failed(f"only {result['run_ops']} of {keys} values were loaded within {LOAD_LIMIT} s")
        # What is flushed and compacted a little later belongs to these puts too, and not to the reads behind them.
        rest = cluster.rest(self.options.settle)
        logical = result["run_logical_bytes_put"]
        return {
            "keys": keys,
            "rest": rest,
            "written": [(b - a) / logical for a, b in zip(before, cluster.written())],
            "stored": [held / logical for held in cluster.stored()],
            "ops": {"load": of_load(result)},
        }

    def ycsb(self, cluster, turn, seconds):
        """Load, then the core workloads in the order that YCSB recommends: inserts of D stay for E."""
        records = suite.keys_of(self.options, turn)
        properties = {"recordcount": records, "fieldcount": 1, "fieldlength": turn.size, "writeallfields": "true"}
        ops = {"load": self.ycsb_phase(cluster, ["--load", "--workload", "a"], properties, 0, LOAD_LIMIT)}
        rest = cluster.rest(self.options.settle)
        cluster.collect()
        timed = {"operationcount": 0, "maxexecutiontime": whole_seconds(seconds)}
        for name in PHASES["ycsb"]:
            phase = ["--run", "--workload", name]
            ops[name] = self.ycsb_phase(cluster, phase, properties | timed, self.options.warmup, seconds)
        return {"keys": records, "rest": rest, "ops": ops}

    def ycsb_phase(self, cluster, phase, properties, warmup, seconds):
        self.check_disk()
        arguments = ["ycsb", *phase, "--json", "--driver", cluster.driver, "--threads", self.options.clients]
        arguments += ["--connections", self.options.connections, "--warmup", warmup]
        arguments += ["--pids", ",".join(map(str, cluster.pids()))]
        for name, value in properties.items():
            arguments += ["-p", f"{name}={value}"]
        return of_ycsb(self.bench.json(arguments, cluster.endpoints(), seconds + warmup + 180))

    def over_time(self, cluster, turn, seconds):
        """Overwrites at random, second by second, with what the collector did meanwhile."""
        keys = suite.keys_of(self.options, turn)
        measured = self.loaded(cluster, turn.size, keys)
        acks = self.work / "acks"
        before = cluster.written()
        extra = ["--keys", keys, "--key-prefix", READ_KEYS, "--ack-log", acks]
        try:
            with Watch(cluster) if isinstance(cluster, Nezha) else contextlib.nullcontext() as watch:
                result = self.load(
                    cluster, "put", turn.size, self.options.clients, seconds=seconds * OVER_TIME, extra=extra
                )
            began, rates = rates_of(acks)
        finally:
            acks.unlink(missing_ok=True)
        time.sleep(self.options.settle)
        logical = result["run_logical_bytes_put"]
        measured["ops"]["overwrite"] = of_load(result)
        measured["rewritten"] = [(b - a) / logical for a, b in zip(before, cluster.written())]
        measured["series"] = {"puts_per_second": rates, "gc": gc_series(watch, began) if watch else []}
        return measured

    def raw(self, turn):
        """What the disk and the loopback allow for these sizes, without any store."""
        options = self.options
        group = suite.group_of(turn.size, options.clients)
        arguments = ["disk", "--json", "--dir", self.work / "disk", "--size", group, "--writers", NODES]
        arguments += ["--seconds", options.raw_seconds]
        cached, direct = (self.bench.json(arguments + kind, [], 120) for kind in ([], ["--direct"]))
        disk = max(cached, direct, key=lambda probe: probe["mb_per_second"])
        measured = {"group": group, "disk_mb": disk["mb_per_second"], "syncs": disk["syncs_per_second"]}
        measured["disk_direct_mb"] = direct["mb_per_second"]
        for kind in ("unary", "stream"):
            arguments = ["echo", "--json", "--mode", kind, "--size", turn.size, "--answer-size", ANSWER_BYTES]
            arguments += ["--clients", options.clients, "--connections", options.connections]
            arguments += ["--seconds", options.raw_seconds, "--warmup", 0]
            try:
                measured[f"echo_{kind}"] = self.bench.json(arguments, [], 120)["ops_per_second"]
            except Failed as failure:
                # The disk's share can be told without it.
                say(f"echo: {str(failure).splitlines()[0]}")
        return measured


def of_load(result):
    """The figures of one phase of `kvctl bench put|get|scan`."""
    return {
        "rate": result["ops_per_second"],
        "mb": result["mb_per_second"],
        "latency_us": result["latency_us"],
        "cpu_us": sum(process["cpu_us_per_op"] or 0 for process in result["processes"]),
        "client_cpu_us": result["client_cpu_seconds"] * 1e6 / max(result["run_ops"], 1),
        "rss_peak": max((process["rss_peak_bytes"] for process in result["processes"]), default=None),
        "errors": sum(result["errors"].values()),
    }


def of_ycsb(result):
    """The figures of one phase of `kvctl bench ycsb`."""
    return {
        "rate": result["ops_per_second"],
        "latency_us": {name: series["latency_us"] for name, series in result["operations"].items()},
        "cpu_us": sum(process["cpu_us_per_op"] or 0 for process in result["processes"]),
        "client_cpu_us": result["client_cpu_seconds"] * 1e6 / max(result["ops"], 1),
        "errors": sum(result["errors"].values()),
    }


def rates_of(path):
    """(unix second of the first, acknowledgements in each second since) of a log of acknowledgements."""
    counts = {}
    with open(path) as lines:
        for line in lines:
            words = line.split()
            if len(words) == 2:
                second = int(words[1]) // 1_000_000
                counts[second] = counts.get(second, 0) + 1
    if not counts:
        raise Failed(f"{path}: no put was acknowledged")
    # The first and the last second are not whole.
    first, last = min(counts), max(counts)
    return first + 1, [counts.get(second, 0) for second in range(first + 1, last)]


def gc_series(watch, began):
    """Of each look: seconds since `began`, nodes with a job, highest bytes of files per byte that the node may hold."""
    looks = []
    for at, nodes in watch.samples:
        answered = [node for node in nodes if node["error"] is None]
        shares = [node["file_bytes"] / node["space"]["bound_bytes"] for node in answered if node["space"]["bound_bytes"]]
        looks.append([round(at - began, 2), sum(bool(node.get("job")) for node in answered), max(shares, default=None)])
    return looks


def run(options):
    """Runs what is not there yet, within the budget, and prints the tables."""
    stage = Suite(options)
    results = Results(options.output or stage.work / f"{options.mode}.jsonl")
    check(stage)
    plan = results.plan(options) or make_plan(options, results)
    results.add("facts", **common.machine_facts(stage))
    try:
        run_turns(stage, results, plan)
    finally:
        for table in tables.tables(Figures(results.lines)):
            print(table.markdown(), flush=True)


def check(stage):
    """Refuses to begin what cannot end: a program that is not there, memory that cannot be limited."""
    options = stage.options
    for system in dict.fromkeys(options.systems + options.memory_systems + options.ycsb_systems + options.time_systems):
        stage.system(system)
    if options.memory_systems:
        with MemoryLimit(options.memory_limit):
            pass


def make_plan(options, results):
    """Divides the budget, and notes it: a run that goes on must measure for the same time."""
    turns = suite.turns_of(options)
    budget = options.minutes * 60
    if options.seconds is None:
        seconds, repetitions = suite.divide(turns, suite.Lengths(options), budget)
    else:
        seconds, repetitions = options.seconds, options.repetitions
    results.add("plan", fixed=results.fixed(options), seconds=seconds, repetitions=repetitions, budget=budget)
    if repetitions < options.repetitions:
        say(f"{options.minutes:g} minutes allow {repetitions} of {options.repetitions} repetitions")
    return results.of_kind("plan")[-1]


def run_turns(stage, results, plan):
    seconds = plan["seconds"]
    lengths = suite.Lengths(stage.options, results.turns())
    done = results.done()
    wanted = [turn for turn in suite.turns_of(stage.options) if turn.repetition < plan["repetitions"]]
    left = [turn for turn in wanted if turn not in done]
    budget = stage.options.minutes * 60
    say(
        f"{results.path}: {len(wanted) - len(left)} turns done in {results.spent() / 60:.0f} min, {len(left)} to go, "
        f"phases of {seconds:g} s, about {lengths.total(left, seconds) / 60:.0f} min of {budget / 60:.0f}"
    )
    for at, turn in enumerate(left):
        if results.spent() + lengths.of(turn, seconds) > budget:
            dropped = left[at:]
            results.add("dropped", turns=len(dropped), repetitions=sorted({turn.repetition for turn in dropped}))
            say(f"the {budget / 60:.0f} minutes are over: {len(dropped)} turns are left out, raise --minutes to run them")
            return
        run_turn(stage, results, turn, seconds)
        lengths.learn(results.of_kind("turn")[-1])


def run_turn(stage, results, turn, seconds):
    began = time.monotonic()
    head = {"part": turn.part, "system": turn.system, "size": turn.size, "repetition": turn.repetition}
    head |= {"seconds": seconds, "load": os.getloadavg()[0]}
    try:
        measured = stage.run(turn, seconds)
    except (Failed, subprocess.TimeoutExpired) as failure:
        measured = {"failed": str(failure)}
    results.add("turn", **head, took=round(time.monotonic() - began, 1), **measured)
    name = f"{turn.part} {size_name(turn.size)} {turn.system} #{turn.repetition + 1}"
    say(f"{name}: {summary(measured)}")


def summary(measured):
    """One line on a turn for whoever watches."""
    if "failed" in measured:
        return f"FAILED: {measured['failed']}"
    if "disk_mb" in measured:
        return f"{measured['disk_mb']:,.0f} MB/s"
    return ", ".join(f"{name} {op['rate']:,.0f}/s" for name, op in measured["ops"].items())


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    for name, default in MODES.items():
        sub = modes.add_parser(name, help=default["help"], description=default["help"])
        systems = ",".join(default["systems"])
        add = sub.add_argument
        add("--systems", default=systems, help="(%(default)s)")
        add("--sizes", default=default["sizes"], help="bytes of values, or none (%(default)s)")
        add("--ycsb-systems", help="for Load and A-F, or none (default: --systems in paper, none in bench)")
        add("--ycsb-size", default="16KiB", help="bytes of values there (%(default)s)")
        add("--memory-systems", default=default["memory_systems"], help="with little memory, or none (%(default)s)")
        add("--memory-size", default="16KiB", help="bytes of values there (%(default)s)")
        add("--memory-limit", default="1536MiB", help="of all three processes and what is cached for them (%(default)s)")
        add("--time-systems", default=default["time_systems"], help="overwrites over time, or none (%(default)s)")
        add("--volume", default=default["volume"], help="bytes that are loaded before the measurements (%(default)s)")
        add("--keys-min", type=int, default=default["keys_min"], help="keys of them, at least (%(default)s)")
        add("--keys-max", type=int, default=default["keys_max"], help="and at most (%(default)s)")
        add("--memtables", default=default["memtables"], help="bytes that are loaded in any case (%(default)s)")
        add("--clients", type=int, default=128, help="of puts, gets and YCSB (%(default)s)")
        add("--load-clients", type=int, default=default["load_clients"], help="of the load of values below 4 KiB (%(default)s)")
        add("--scan-clients", type=int, default=32, help="of scans, at most: fewer where 128 MiB of rows would be in flight (%(default)s)")
        add("--scan-length", type=int, default=100, help="rows of a scan (%(default)s)")
        add("--repetitions", type=int, default=default["repetitions"], help="at most (%(default)s)")
        add("--minutes", type=float, default=default["minutes"], help="for all turns of the file (%(default)s)")
        add("--seconds", type=float, help="of each phase (default: what the minutes allow)")
        add("--raw-seconds", type=float, default=1, help="of each probe of disk and loopback (%(default)s)")
        add("--output", help="file of JSON lines (default: MODE.jsonl in the work dir)")
        common.add_etcd(sub)
        common.add_stage(sub, default)
    options = parser.parse_args(arguments)
    if options.ycsb_systems is None:
        options.ycsb_systems = options.systems if options.mode == "paper" else "none"
    for name in ("sizes", "systems", "ycsb_systems", "memory_systems", "time_systems"):
        read = parse_size if name == "sizes" else str
        text = getattr(options, name)
        setattr(options, name, [] if text == "none" else [read(word) for word in text.split(",")])
    for name in ("volume", "memtables", "ycsb_size", "memory_size", "memory_limit"):
        setattr(options, name, parse_size(getattr(options, name)))
    # A quarter more than there is memory for: the leader's share alone does not fit.
    options.memory_volume = options.memory_limit * 5 // 4
    return options


if __name__ == "__main__":
    common.end_orderly_on_signals()
    try:
        run(parse(sys.argv[1:]))
    except Failed as failure:
        sys.exit(f"paper.py: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where it was")
