#!/usr/bin/env python3
"""Measures garbage collection and snapshots of a three-node cluster on this machine. See --help.

Modes and output as in compare.py: a markdown table on stdout, progress on stderr, JSON lines in --output.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time

import clusters
import common
from clusters import NODES, Failed, say
from common import GIB, KIB, MIB, median, number, size_name, spread


def cluster(run, *options):
    """A cluster whose members have options of their own."""
    result = run.cluster("nezha")
    result.options = options
    return result


class Watch:
    """Asks every node for its gc status once a second while it runs."""

    def __init__(self, members):
        self.members = members
        self.samples = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        while not self.stop.wait(1):
            try:
                self.samples.append((time.time(), self.members.gc_status()))
            except (Failed, subprocess.TimeoutExpired, ValueError) as failure:
                say(f"gc status: {failure}")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def peak(self):
        """Highest bytes of files per live byte, and per bound, of any node."""
        nodes = [node for _, sample in self.samples for node in sample if node["error"] is None]
        loaded = [node for node in nodes if node["live_bytes"] > 0]
        amplification = max((node["file_bytes"] / node["live_bytes"] for node in loaded), default=None)
        bounded = [node for node in loaded if node["space"]["bound_bytes"] > 0]
        bound = max((node["file_bytes"] / node["space"]["bound_bytes"] for node in bounded), default=None)
        return amplification, bound

    def busy(self):
        """Share of looks in which a job ran on some node."""
        looks = [any(node.get("job") for node in sample) for _, sample in self.samples]
        return sum(looks) / len(looks) if looks else 0


def load_all(run, members, size, keys):
    began = time.monotonic()
    result = run.load(members, "put", size, 64, seconds=1200, warmup=0, extra=["--unique", "--keys", keys])
    if result["run_ops"] < keys:
        raise Failed(f"only {result['run_ops']} of {keys} values were loaded")
    say(f"loaded {keys} values of {size_name(size)} in {time.monotonic() - began:.0f} s")
    return result


def overwrites(run):
    """Overwrites of a whole data set, several times: space over time, bytes written, latency."""
    options = run.options
    run.table(
        "Overwrites with gc",
        [
            "keys chosen",
            "data set",
            "overwritten",
            "highest files/live",
            "highest files/bound",
            "at the end",
            "written per logical byte and replica",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "writes slowed",
            "refused",
        ],
    )
    for distribution in options.distributions:
        for size in options.sizes:
            try:
                with cluster(run, *options.kvd_options.split()) as members:
                    overwrite(run, members, distribution, size)
            except Failed as failure:
                say(f"{distribution}: {failure}")
                run.record(distribution=distribution, size=size, failed=str(failure))


def overwrite(run, members, distribution, size):
    options = run.options
    keys = options.volume // size
    load_all(run, members, size, keys)
    written, logical, turns = members.written(), 0, []
    with Watch(members) as watch:
        while logical < options.rounds * options.volume:
            extra = ["--keys", keys, "--distribution", distribution]
            result = run.load(members, "put", size, options.clients[0], warmup=0, extra=extra)
            logical += result["run_logical_bytes_put"]
            turns.append(result)
            node = watch.samples[-1][1][0] if watch.samples else {}
            say(
                f"{distribution}: {logical / GIB:.1f} GiB, {result['mb_per_second']:.0f} MB/s, "
                f"p99 {result['latency_us']['p99'] / 1000:.1f} ms, errors {result['errors'] or 'none'}, "
                f"files/live {node.get('space_amplification') or 0:.2f}"
            )
            run.record(distribution=distribution, size=size, result=result, status=watch.samples[-1:])
        # What is still to be collected belongs to these writes too.
        time.sleep(options.settle)
        after = members.written()
    amplification, bound = watch.peak()
    end = members.gc_status()
    per_byte = [(b - a) / logical for a, b in zip(written, after)]
    held = [sum(node["space"][name] for node in end) for name in ("writes_slowed", "writes_refused")]
    run.record(
        distribution=distribution, size=size, logical=logical, written=per_byte, end=end,
        series=[(at, [(n["file_bytes"], n["live_bytes"], bool(n["job"])) for n in s]) for at, s in watch.samples],
    )
    run.row(
        distribution,
        f"{options.volume / GIB:.1f} GiB of {size_name(size)}",
        f"{logical / options.volume:.1f} times",
        f"{amplification:.2f}",
        f"{bound:.2f}",
        " ".join(f"{node['space_amplification']:.2f}" for node in end),
        " ".join(f"{ratio:.2f}" for ratio in per_byte),
        number(median(turn["mb_per_second"] for turn in turns), 1),
        *(number(median(turn["latency_us"][q] / 1000 for turn in turns)) for q in ("p50", "p99")),
        *held,
    )


def beside(run):
    """Latency of puts while gc works and while it is paused, in turns on the same cluster."""
    options = run.options
    run.table(
        "Puts beside gc and without",
        ["value", "clients", "gc", "ops/s", "p50 ms", "p99 ms", "share of looks with a job", "ratio of p99", "in the turns"],
    )
    size = options.sizes[0]
    keys = options.volume // size
    for clients in options.clients:
        with cluster(run, *options.kvd_options.split()) as members:
            load_all(run, members, size, keys)
            pairs = [beside_pair(run, members, size, keys, clients) for _ in range(options.repetitions)]
        ratios = [busy["latency_us"]["p99"] / idle["latency_us"]["p99"] for (busy, _), (idle, _) in pairs]
        for at, name in ((0, "works"), (1, "paused")):
            turns = [pair[at] for pair in pairs]
            run.row(
                size_name(size), clients, name,
                number(median(turn["ops_per_second"] for turn, _ in turns)),
                *(number(median(turn["latency_us"][q] / 1000 for turn, _ in turns)) for q in ("p50", "p99")),
                f"{median(busy for _, busy in turns):.2f}",
                number(median(ratios)) if at == 0 else "",
                spread(ratios) if at == 0 else "",
            )


def beside_pair(run, members, size, keys, clients):
    """A turn without gc, which leaves garbage, then one with it."""
    def turn(order):
        for node in range(NODES):
            members.kvctl("gc", order, nodes=[node])
        with Watch(members) as watch:
            extra = ["--keys", keys]
            result = run.load(members, "put", size, clients, extra=extra)
        say(f"gc {order}: p99 {result['latency_us']['p99'] / 1000:.1f} ms, a job in {watch.busy():.0%} of the looks")
        run.record(order=order, clients=clients, result=result, busy=watch.busy())
        return result, watch.busy()

    idle = turn("pause")
    busy = turn("resume")
    return busy, idle


def unique(run):
    """Throughput of puts of new keys with gc on and off, in turns on fresh clusters."""
    options = run.options
    run.table("Puts of new keys, gc on and off", ["value", "clients", "on ops/s", "off ops/s", "ratio", "in the turns"])
    for size in options.sizes:
        for clients in options.clients:
            pairs = []
            for repetition in range(options.repetitions):
                rates = {}
                for mode in ("auto", "manual") if repetition % 2 == 0 else ("manual", "auto"):
                    with cluster(run, "--gc", mode) as members:
                        result = run.load(members, "put", size, clients, extra=["--unique"])
                    rates[mode] = result["ops_per_second"]
                    run.record(size=size, clients=clients, gc=mode, result=result)
                say(f"{size_name(size)} C={clients}: {rates}")
                pairs.append((rates["auto"], rates["manual"]))
            ratios = [on / off for on, off in pairs]
            run.row(
                size_name(size), clients,
                *(number(median(pair[at] for pair in pairs)) for at in (0, 1)),
                number(median(ratios)), spread(ratios),
            )


def snapshot(run):
    """Building a snapshot of much data, sending it to a member that lacks the log, and installing it."""
    options = run.options
    run.table(
        "A snapshot",
        [
            "data set", "collected before", "built and log purged s", "written meanwhile MiB",
            "sent s", "MB/s", "receiver silent ms (longest gap)", "peak RSS sender MiB (idle)", "peak RSS receiver MiB",
        ],
    )
    size = options.sizes[0]
    keys = options.volume // size
    for collected in (False, True):
        with cluster(run, "--lagging-log-bytes-max=1MiB", "--gc", "manual") as members:
            load_all(run, members, size, keys)
            if collected:
                for node in range(NODES):
                    members.kvctl("gc", "run", "--wait", nodes=[node], timeout=1800)
            send_snapshot(run, members, size, collected)


def send_snapshot(run, members, size, collected):
    leader = members.leader()
    away = (leader + 1) % NODES
    members.signal(away, signal.SIGKILL)
    more = ["put", "--json", "--size", size, "--clients", 32, "--seconds", 2, "--unique", "--key-prefix", "more/"]
    run.bench.json(more, [members.endpoint(node) for node in range(NODES) if node != away], 120)
    before = members.written_by(leader)
    idle = clusters.proc_value(members.pids()[leader], "status", "VmRSS:") / KIB
    began = time.monotonic()
    members.kvctl("--timeout", "120s", "purge", nodes=[leader])
    built = time.monotonic() - began
    meanwhile = (members.written_by(leader) - before) / MIB
    # The peak counts from here.
    open(f"/proc/{members.pids()[leader]}/clear_refs", "w").write("5")
    began = time.monotonic()
    members.execute(away)
    goal = members.status([leader])["members"][members.endpoint(leader)]["applied_index"]
    longest, last = 0, None
    while True:
        now = time.monotonic()
        if now - began > 600:
            raise Failed("the member did not catch up within 600 s\n" + members.log_tails())
        try:
            member = members.status([away])["members"][members.endpoint(away)]
        except Failed:
            continue
        if last is not None:
            longest = max(longest, time.monotonic() - last)
        last = time.monotonic()
        if (member.get("applied_index") or 0) >= goal:
            break
        time.sleep(0.02)
    sent = time.monotonic() - began
    sender, receiver = (clusters.proc_value(members.pids()[n], "status", "VmHWM:") / KIB for n in (leader, away))
    log = (members.directory / f"n{away + 1}.log").read_text(errors="replace")
    lines = [line for line in log.splitlines() if "snapshot" in line or "transfer" in line]
    say("\n".join(lines[-4:]))
    bytes_sent = run.options.volume
    run.record(collected=collected, built=built, meanwhile=meanwhile, sent=sent, longest=longest, lines=lines[-6:])
    run.row(
        f"{bytes_sent / GIB:.1f} GiB of {size_name(size)}", "yes" if collected else "no",
        f"{built:.2f}", number(meanwhile, 1), f"{sent:.1f}", number(bytes_sent / sent / 1e6),
        number(longest * 1000), f"{sender:.0f} ({idle:.0f})", f"{receiver:.0f}",
    )


MODES = {
    "overwrites": (overwrites, {"seconds": 15, "sizes": "4KiB", "clients": "64", "settle": 20}),
    "beside": (beside, {"seconds": 15, "sizes": "4KiB", "clients": "32", "volume": "1GiB"}),
    "unique": (unique, {"seconds": 10, "sizes": "1KiB,16KiB", "clients": "64"}),
    "snapshot": (snapshot, {"sizes": "16KiB", "clients": "64"}),
}
DEFAULTS = {"seconds": 10, "repetitions": 3, "warmup": 1, "settle": 2, "volume": "4GiB"}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    for name, (mode, own) in MODES.items():
        default = DEFAULTS | own
        sub = modes.add_parser(name, help=mode.__doc__, description=mode.__doc__)
        common.add_common(sub, default)
        add = sub.add_argument
        add("--sizes", default=default["sizes"], help="bytes of values (%(default)s)")
        add("--clients", default=default["clients"], help="(%(default)s)")
        add("--volume", default=default["volume"], help="bytes of the data set (%(default)s)")
        add("--kvd-options", default="--gc auto", help="options of every node (%(default)s)")
        if name == "overwrites":
            add("--distributions", default="uniform,zipfian", help="(%(default)s)")
            add("--rounds", type=float, default=5, help="how often the data set is overwritten (%(default)s)")
    options = parser.parse_args(arguments)
    options.volume = common.parse_size(options.volume)
    return common.split_lists(options, {"sizes": common.parse_size, "clients": int, "distributions": str})


if __name__ == "__main__":
    common.main(parse(sys.argv[1:]), MODES)
