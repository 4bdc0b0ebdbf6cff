#!/usr/bin/env python3
"""Compares Nezha with etcd 3.5 and the raw disk, in interleaved turns on this machine. See --help.

Each mode works alone, prints its markdown table row by row on stdout, notes progress on stderr, and appends every
result as a JSON line to --output. Only ratios within one run count: machines and disks vary.
"""

import argparse
import json
import signal
import subprocess
import sys
import time

import clusters
import common
from clusters import NODES, Failed, say
from common import GIB, KIB, MIB, disk_turn, median, number, parse_size, size_name, spread


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
DEFAULTS = {"stores": "nezha,etcd", "sizes": "1KiB", "clients": "32", "seconds": 5, "repetitions": 3, "warmup": 1, "settle": 2}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True, metavar="MODE")
    for name, (mode, own) in MODES.items():
        default = DEFAULTS | own
        sub = modes.add_parser(name, help=mode.__doc__, description=mode.__doc__)
        add = sub.add_argument
        add("--stores", default=default["stores"], help="of nezha, etcd, baseline:SYSTEM:SETTINGS (%(default)s)")
        common.add_common(sub, default)
        common.add_etcd(sub)
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
    return common.split_lists(options, lists)


if __name__ == "__main__":
    common.main(parse(sys.argv[1:]), MODES)
