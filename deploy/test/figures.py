#!/usr/bin/env python3
"""YCSB A and C at 1 KiB and 16 KiB: three containers beside three bare processes, in turns on one machine.

Both clusters have the same disk below them and are driven by the same `kvctl bench ycsb`: one in a container on the
clients' network, one on loopback. Prints operations per second, medians of the turns; read the ratios.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

from engine import ROOT, Cluster, run

PROJECT, SUBNET = "nezha-figures", "10.239.82.0/24"
RECORDS = {1024: 10_000, 16384: 2000}
THREADS = 64


class Containers:
    name = "containers"

    def __init__(self, image):
        self.image, self.cluster = image, Cluster(PROJECT, image, SUBNET)

    def start(self):
        self.cluster.down()
        self.cluster.compose("up", "--detach", *self.cluster.nodes)
        self.cluster.wait_healthy()

    def ycsb(self, *words):
        network = ["--network", self.cluster.network("clients"), "--env", f"KVCTL_ENDPOINTS={self.cluster.endpoints()}"]
        kvctl = ["docker", "run", "--rm", "--no-healthcheck", *network, "--entrypoint", "kvctl", self.image]
        return json.loads(run(*kvctl, "bench", "ycsb", "--json", *words, timeout=300).stdout)

    def stop(self):
        self.cluster.down()


class Processes:
    name = "processes"
    endpoints = "127.0.0.1:17379,127.0.0.1:17380,127.0.0.1:17381"

    def __init__(self):
        # On the file system that Docker's volumes are on.
        self.directory = pathlib.Path("/var/lib/docker/nezha-figures")
        self.process = None

    def start(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        local = ["local", "--nodes", "3", "--data-dir", self.directory, "--client-port", "17379", "--peer-port", "17479"]
        self.process = subprocess.Popen([ROOT / "target/release/kvd", *local], stdout=subprocess.DEVNULL)
        self.kvctl("--timeout", "30s", "put", "first", "write")

    def kvctl(self, *words):
        env = {**os.environ, "KVCTL_ENDPOINTS": self.endpoints}
        return run(ROOT / "target/release/kvctl", *words, env=env, timeout=300).stdout

    def ycsb(self, *words):
        return json.loads(self.kvctl("bench", "ycsb", "--json", *words))

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)


def measure(cluster, workload, size, seconds):
    shape = ["-p", f"recordcount={RECORDS[size]}", "-p", "fieldcount=1", "-p", f"fieldlength={size}"]
    run_for = ["-p", "operationcount=0", "-p", f"maxexecutiontime={seconds}", "-p", "writeallfields=true", "--warmup", "1"]
    return cluster.ycsb("--run", "--workload", workload, "--threads", str(THREADS), *shape, *run_for)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="nezha:test")
    parser.add_argument("--seconds", type=int, default=5, help="of each turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each cell (%(default)s)")
    options = parser.parse_args()
    clusters = [Containers(options.image), Processes()]
    rows = {}
    try:
        for size in RECORDS:
            for cluster in clusters:
                cluster.start()
                load = ["--load", "--workload", "a", "--threads", str(THREADS)]
                shape = ["-p", f"recordcount={RECORDS[size]}", "-p", "fieldcount=1", "-p", f"fieldlength={size}"]
                cluster.ycsb(*load, *shape)
            for turn in range(options.turns):
                for workload in "ac":
                    # Whoever is first in one turn is second in the next.
                    for cluster in clusters if turn % 2 else clusters[::-1]:
                        found = measure(cluster, workload, size, options.seconds)
                        rows.setdefault((workload, size), {}).setdefault(cluster.name, []).append(found)
            for cluster in clusters:
                cluster.stop()
            time.sleep(1)
    finally:
        for cluster in clusters:
            cluster.stop()
    (ROOT / "target/cluster-test").mkdir(parents=True, exist_ok=True)
    for (workload, size), turns in rows.items():
        rates = {name: statistics.median(rate(found) for found in founds) for name, founds in turns.items()}
        ratio = rates["containers"] / rates["processes"]
        print(f"{workload.upper()} {size // 1024:2} KiB: containers {rates['containers']:7.0f} ops/s, "
              f"processes {rates['processes']:7.0f} ops/s, ratio {ratio:.2f}")  # fmt: skip


def rate(found):
    return found["ops_per_second"]


if __name__ == "__main__":
    sys.exit(main())
