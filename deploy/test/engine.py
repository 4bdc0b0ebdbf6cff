"""Docker, Compose and the cluster's containers, as the tests use them. Only Python's own library."""

import json
import os
import pathlib
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy/compose.sh"
# Otherwise containers of a profile that is not named are left alone.
EVERYTHING = ["--profile", "spare", "--profile", "tools", "--profile", "ycsb"]
MIB = 1 << 20


class Failed(Exception):
    """What the test finds wrong."""


def require(holds, what):
    if not holds:
        raise Failed(what)


def run(*words, check=True, timeout=120, **more):
    """Runs a command; returns what it did. Fails with what it said, unless `check` is off."""
    words = [str(word) for word in words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **more)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def out(*words, **more):
    return run(*words, **more).stdout.strip()


def docker(*words, **more):
    return out("docker", *words, **more)


def inspect(what):
    return json.loads(docker("inspect", what))[0]


def until(what, seconds, ready, pause=0.2):
    """Waits until `ready()` is true or not None; fails after so many seconds, with the last thing that went wrong."""
    end, trouble = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            answer = ready()
            if answer:
                return answer
        except (Failed, subprocess.TimeoutExpired) as error:
            trouble = error
        time.sleep(pause)
    raise Failed(f"not within {seconds} s: {what}" + (f"; last: {trouble}" if trouble else ""))


class Disks:
    """A file system of its own for each data volume, so that one can be full. Loop devices: root is needed."""

    def __init__(self, directory, names, mib):
        self.files = {name: directory / f"{name}.disk" for name in names}
        self.devices, self.mib = {}, mib

    def make(self):
        self.remove()
        for name, file in self.files.items():
            with open(file, "wb") as image:
                image.truncate(self.mib * MIB)
            self.devices[name] = out("losetup", "--find", "--show", file)
            self.format(name)

    def format(self, name):
        run("mkfs.ext4", "-q", "-F", "-m", "0", self.devices[name])
        # Docker gives an empty volume the owner and the mode that its directory has in the image.
        with tempfile.TemporaryDirectory() as at:
            run("mount", self.devices[name], at)
            pathlib.Path(at, "lost+found").rmdir()
            run("umount", at)

    def remove(self):
        """Also what an earlier run left."""
        for file in self.files.values():
            if file.exists():
                for device in out("losetup", "--noheadings", "--output", "NAME", "--associated", file).split():
                    # One that is still mounted goes with its last mount.
                    run("losetup", "--detach", device)
                file.unlink()


class Cluster:
    """The containers of one Compose project."""

    def __init__(self, project, image, subnet, override=None):
        self.project = project
        self.env = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": project,
            "NEZHA_IMAGE": image,
            "NEZHA_PEERS_SUBNET": subnet,
        }
        if override:
            self.env["COMPOSE_MORE"] = str(override)
        self.nodes = ["n1", "n2", "n3"]

    def compose(self, *words, image=None, check=True, timeout=180):
        env = {**self.env, "NEZHA_IMAGE": image} if image else self.env
        return run(COMPOSE, *words, env=env, check=check, timeout=timeout)

    def network(self, name):
        return f"{self.project}_{name}"

    def id(self, node):
        labels = {"project": self.project, "service": node, "oneoff": "False"}
        filters = [f"--filter=label=com.docker.compose.{label}={value}" for label, value in labels.items()]
        found = docker("ps", "--all", "--quiet", *filters).split()
        require(len(found) == 1, f"{node} has {len(found)} containers")
        return found[0]

    def is_running(self, node):
        return inspect(self.id(node))["State"]["Status"] == "running"

    def endpoints(self, nodes=None):
        return ",".join(f"{node}:7379" for node in nodes or self.nodes)

    def kvctl(self, *words, check=True, timeout=60, via=None):
        """Runs kvctl in a container of a node that runs, with all nodes as endpoints."""
        via = via or next(node for node in self.nodes if self.is_running(node))
        kvctl = ["docker", "exec", self.id(via), "kvctl", "--endpoints", self.endpoints()]
        return run(*kvctl, *words, check=check, timeout=timeout)

    def status(self):
        return json.loads(self.kvctl("status", "-w", "json", check=False).stdout or "null")

    def leader(self):
        def find():
            status = self.status()
            leaders = [member["name"] for member in status["members"] if member["id"] == status["leader_id"]]
            return leaders and leaders[0]

        return until("a leader", 30, find)

    def followers(self):
        leader = self.leader()
        return [node for node in self.nodes if node != leader]

    def wait_healthy(self, seconds=40):
        """Every member is there, caught up, and serves linearizable reads by its own word."""

        def healthy():
            status = self.status()
            if not status or not status["healthy"] or len(status["members"]) != len(self.nodes):
                raise Failed(status and status["verdict"])
            # Behind is fine while it is written to; to be far behind is not.
            lagging = [member["name"] for member in status["members"] if (member["lag"] or 0) > 1000]
            require(not lagging, f"behind: {lagging}")
            return self.kvctl("health", "--cluster", check=False).returncode == 0

        return until("all members are healthy", seconds, healthy)

    def wait_docker_says(self, node, health, seconds):
        says = lambda: inspect(self.id(node))["State"]["Health"]["Status"]
        until(f"Docker says that {node} is {health}", seconds, lambda: says() == health)

    def volume_path(self, node):
        return pathlib.Path(docker("volume", "inspect", self.network(node), "--format", "{{.Mountpoint}}"))

    def address(self, node, network):
        return inspect(self.id(node))["NetworkSettings"]["Networks"][self.network(network)]["IPAddress"]

    def disconnect(self, node, network):
        """Cuts a node off; returns how it is to be connected again: Docker gives another address by itself."""
        address = self.address(node, network)
        docker("network", "disconnect", self.network(network), self.id(node))
        return address

    def connect(self, node, network, address):
        aliases = ["--alias", node] + (["--alias", f"{node}.peers"] if network == "peers" else [])
        # Only a network whose addresses are stated gives a chosen one.
        chosen = ["--ip", address] if network == "peers" else []
        docker("network", "connect", *aliases, *chosen, self.network(network), self.id(node))

    def logs(self, node, lines=40):
        done = run("docker", "logs", "--tail", lines, self.id(node), check=False)
        return done.stdout + done.stderr

    def down(self):
        self.compose(*EVERYTHING, "down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)


class Attendant:
    """Clients in a container on the clients' network, and their judge: `nezha-jepsen attend`."""

    def __init__(self, cluster, image, directory):
        self.name = f"{cluster.project}-attendant"
        program = ROOT / "target/release/nezha-jepsen"
        members = ",".join(f"{node}={node}:7379" for node in cluster.nodes)
        # The image has the libraries that this program needs: it was built on the same release. As root for its folder.
        self.process = subprocess.Popen(
            ["docker", "run", "--rm", "--interactive", "--name", self.name, "--network", cluster.network("clients"),
             "--no-healthcheck", "--user", "0", "--volume", f"{program}:/nezha-jepsen:ro",
             "--volume", f"{directory}:/found", "--entrypoint", "/nezha-jepsen", image,
             "attend", "--members", members, "--history", "/found/history.jsonl"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def order(self, *words):
        try:
            self.process.stdin.write(" ".join(words) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        require(answer, f"the clients ended with exit code {self.process.poll()}; their last words are above")
        return json.loads(answer)

    def end(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                run("docker", "rm", "--force", self.name, check=False)
