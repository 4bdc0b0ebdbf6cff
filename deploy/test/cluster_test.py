#!/usr/bin/env python3
"""Breaks the containerized cluster in every way that its documentation promises to survive, while clients work.

Three nodes as deploy/compose.yaml has them, but on disks of a bounded size. `nezha-jepsen attend` is the clients: four
that write new keys without a pause and give up on an answer after a second, and a dozen that read, write, compare and
scan a few keys. After each fault it asks every member for everything and judges the whole history so far: each
acknowledged value is there, and what clients were told is linearizable. See --help, and `make cluster-test`.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import sys
import time

import hardening
from engine import ROOT, Attendant, Cluster, Disks, Failed, docker, inspect, out, require, run, until

PROJECT, SUBNET = "nezha-test", "10.239.80.0/24"
DISK_MIB = 1024
# How long clients may be without an acknowledged write, in milliseconds: a crash or pause of the leader, and the rest.
CRASH_MS, OTHER_MS = 3000, 10_000


class Test:
    def __init__(self, options, directory):
        self.image, self.next_image = options.image, options.next_image
        self.directory = directory
        self.disks = Disks(directory, ["n1", "n2", "n3", "n4"], DISK_MIB)
        self.cluster = Cluster(PROJECT, self.image, SUBNET, directory / "compose.json")
        self.attendant = None
        self.figures = {}
        self.began = time.monotonic()

    def say(self, text):
        print(f"[{time.monotonic() - self.began:5.0f} s] {text}", flush=True)

    # Before and after

    def make(self):
        self.cluster.down()
        self.disks.make()
        volume = lambda device: {"driver": "local", "driver_opts": {"type": "ext4", "device": device}}
        more = {
            # Docker's word is waited for below.
            "services": {node: {"healthcheck": {"interval": "2s"}} for node in self.disks.files},
            "volumes": {name: volume(device) for name, device in self.disks.devices.items()},
        }
        (self.directory / "compose.json").write_text(json.dumps(more, indent=1))

    def unmake(self):
        if self.attendant:
            self.attendant.end()
        self.cluster.down()
        self.disks.remove()

    # What is asked after each fault

    def check(self):
        """Every member is whole: nothing acknowledged is lost, no answer was wrong, all hold the same."""
        members = ",".join(f"{node}={node}:7379" for node in self.cluster.nodes)
        found = self.attendant.order("check", members)
        require(not found["findings"], "findings:\n  " + "\n  ".join(found["findings"][:20]))
        require(not found["undecided"], f"undecided: {found['undecided'][:5]}")
        counts = found["counts"]
        require(counts["of these not read at the end"] == 0 and counts["acknowledged writes lost"] == 0, counts)
        self.cluster.kvctl("check", "replicas")
        return counts["keys with an acknowledged write"]

    def serves_within(self, name, limit_ms, since=None):
        """The longest time since the mark without an acknowledged write, of the client that waited longest."""
        found = self.attendant.order("outage")
        self.figures[name] = found["longest_ms"]
        if found["longest_ms"] > limit_ms:
            raise Failed(f"{name}: {found['longest_ms']} ms without an acknowledged write, {limit_ms} are allowed; "
                         f"refusals: {found['failed']}")  # fmt: skip
        return found["longest_ms"]

    def fault(self, name, limit_ms, inject, heal=None, hold=3.0):
        """Hurts the cluster for a while, heals it, and checks everything."""
        self.attendant.order("mark")
        inject()
        time.sleep(hold)
        hurt = self.serves_within(name, limit_ms)
        if heal:
            heal()
        self.cluster.wait_healthy()
        both = self.serves_within(f"{name}, with healing", limit_ms)
        keys = self.check()
        self.say(f"{name}: at most {hurt} ms without an acknowledged write, {both} with healing; "
                 f"{keys} keys with acknowledged writes are there")  # fmt: skip

    # The faults, in turn

    def start(self):
        began = time.monotonic()
        self.cluster.compose("up", "--detach", "n1", "n2", "n3")
        up = time.monotonic() - began
        # Answered as soon as there is a leader.
        self.cluster.kvctl("put", "first", "write", "--timeout", "60s", via="n1", timeout=90)
        first = time.monotonic() - began
        self.cluster.wait_healthy()
        for node in self.cluster.nodes:
            self.cluster.wait_docker_says(node, "healthy", 20)
        self.figures["start to first acknowledged write"] = round(first * 1000)
        self.say(f"started: containers after {up:.1f} s, first acknowledged write after {first:.1f} s")
        self.attendant = Attendant(self.cluster, self.image, self.directory)
        self.attendant.order("mark")
        time.sleep(3)
        self.say(f"without a fault at most {self.serves_within('no fault', CRASH_MS)} ms between acknowledgements")

    def hardened(self):
        libraries = hardening.check_image(self.image)
        self.say(f"the image holds two programs and {len(libraries)} libraries")
        for node in self.cluster.nodes:
            hardening.check_container(self.cluster, node)
        hardening.check_networks(self.cluster, self.image)
        self.say("every container is as hardened as promised; no shell; the members' port is closed to clients")

    def kill(self):
        leader = self.cluster.leader()
        id = self.cluster.id(leader)
        kill, start = (lambda: docker("kill", id)), (lambda: docker("start", id))
        self.fault("the leader's container is killed", CRASH_MS, kill, start)

    def crash(self):
        """Not Docker's doing: the process dies, and its container starts again by itself."""
        leader = self.cluster.leader()
        restarts = lambda: inspect(self.cluster.id(leader))["RestartCount"]
        before = restarts()
        pid = inspect(self.cluster.id(leader))["State"]["Pid"]
        self.fault("the leader's process is killed", CRASH_MS, lambda: run("kill", "-KILL", pid))
        require(restarts() == before + 1, f"{leader} was not started again by itself")

    def pause(self):
        id = self.cluster.id(self.cluster.leader())
        pause, unpause = (lambda: docker("pause", id)), (lambda: docker("unpause", id))
        self.fault("the leader's container is paused", CRASH_MS, pause, unpause, hold=5)

    def cut_off(self, *networks):
        leader = self.cluster.leader()
        addresses = {}

        def cut():
            for network in networks:
                addresses[network] = self.cluster.disconnect(leader, network)

        def heal():
            if networks == ("peers",):
                # It runs and has a port, but a linearizable read is beyond it.
                self.cluster.wait_docker_says(leader, "unhealthy", 30)
            for network in networks:
                self.cluster.connect(leader, network, addresses[network])

        names = {("peers",): "the members' network", ("clients",): "the clients' network"}
        # Members notice by pings that their connections to its old address lead nowhere.
        hold = 9.0 if networks == ("clients",) else 3.0
        self.fault(f"the leader is cut off {names.get(networks, 'both networks')}", OTHER_MS, cut, heal, hold)

    def fill(self, node, name):
        """Not a byte is left on the node's disk."""
        ballast = self.cluster.volume_path(node) / "ballast"

        def fill():
            run("dd", "if=/dev/zero", f"of={ballast}", "bs=1M", check=False)
            left = shutil.disk_usage(ballast.parent).free
            require(left < 1 << 20, f"{left} bytes are left on the disk of {node}")

        self.fault(name, OTHER_MS, fill, ballast.unlink, hold=6)

    def fill_follower(self):
        self.fill(self.cluster.followers()[0], "a follower's disk is full")

    def fill_leader(self):
        self.fill(self.cluster.leader(), "the leader's disk is full")

    def replace(self):
        """A member's volume is lost. It is refused under its old name, and replaced under a new id."""
        lost, new = self.cluster.followers()[-1], "n4"

        def lose():
            docker("rm", "--force", self.cluster.id(lost))
            docker("volume", "rm", self.cluster.network(lost))
            self.disks.format(lost)
            self.cluster.nodes.remove(lost)
            self.cluster.compose("up", "--detach", "--no-deps", lost)
            until(f"{lost} is refused", 30, lambda: inspect(self.cluster.id(lost))["RestartCount"] > 0)
            require("kvctl member remove" in self.cluster.logs(lost), self.cluster.logs(lost))
            docker("rm", "--force", self.cluster.id(lost))

        def replace():
            self.cluster.kvctl("member", "remove", lost)
            addresses = ["--peer-addr", f"{new}.peers:7380", "--client-addr", f"{new}:7379"]
            self.cluster.kvctl("member", "add", new, *addresses, "--no-wait")
            self.cluster.compose("--profile", "spare", "up", "--detach", "--no-deps", new)
            promoted = lambda: self.cluster.kvctl("member", "promote", new, check=False).returncode == 0
            until(f"{new} is a voter", 40, promoted)
            self.cluster.nodes.append(new)

        self.fault(f"a member's volume is lost, {new} takes its place", OTHER_MS, lose, replace)
        ids = {member["name"]: member["id"] for member in self.cluster.status()["members"]}
        require(ids[new] == 4 and lost not in ids, f"members {ids}")

    def roll(self):
        """Every member gets another build, the leader last."""
        version = inspect(self.next_image)["Config"]["Labels"]["org.opencontainers.image.version"]
        before = {member["version"] for member in self.cluster.status()["members"]}
        require(version not in before, f"{self.next_image} has the version that runs already: {version}")

        def roll():
            for node in self.cluster.followers() + [self.cluster.leader()]:
                self.cluster.compose("--profile", "spare", "up", "--detach", "--no-deps", node, image=self.next_image)
                self.cluster.wait_healthy()

        self.fault(f"all members are rolled to {version}", OTHER_MS, roll, hold=1)
        after = {member["name"]: member["version"] for member in self.cluster.status()["members"]}
        require(set(after.values()) == {version}, f"versions after the roll: {after}")
        self.cluster.env["NEZHA_IMAGE"] = self.next_image

    def stop_and_start(self):
        """All at once. Clients are not served meanwhile, so what counts is the time from the start on."""
        self.cluster.compose("stop", *self.cluster.nodes)
        codes = {node: inspect(self.cluster.id(node))["State"]["ExitCode"] for node in self.cluster.nodes}
        require(not any(codes.values()), f"exit codes of the stop: {codes}")
        ids = [self.cluster.id(node) for node in self.cluster.nodes]
        self.fault("all are stopped and started", OTHER_MS, lambda: docker("start", *ids))

    def run(self):
        self.make()
        self.start()
        self.hardened()
        self.kill()
        self.crash()
        self.pause()
        self.cut_off("peers")
        self.cut_off("peers", "clients")
        self.cut_off("clients")
        self.fill_follower()
        self.fill_leader()
        self.replace()
        self.roll()
        self.stop_and_start()
        # What came later is as hardened as what was there first.
        for node in self.cluster.nodes:
            hardening.check_container(self.cluster, node)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="nezha:test", help="what runs at first (%(default)s)")
    parser.add_argument("--next-image", default="nezha:test-next", help="another version, for the roll (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave everything running after a failure")
    options = parser.parse_args()
    directory = ROOT / "target/cluster-test"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "history.jsonl").unlink(missing_ok=True)
    test = Test(options, directory)
    failure = None
    try:
        test.run()
    except (Failed, KeyboardInterrupt) as error:
        failure = error
        for node in test.cluster.nodes:
            with contextlib.suppress(Failed):
                print(f"--- last words of {node}\n{test.cluster.logs(node)}", file=sys.stderr)
    if not (failure and options.keep):
        test.unmake()
    (directory / "figures.json").write_text(json.dumps(test.figures, indent=1))
    if failure:
        print(f"\nFAILED: {failure!r}\n{failure}", file=sys.stderr)
        return 1
    print(f"\ncluster test passed in {time.monotonic() - test.began:.0f} s; figures: {directory}/figures.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
