#!/usr/bin/env python3
"""Runs every command of the documentation about running a cluster, in the order of the text.

Blocks fenced as `sh` are commands: the blocks of one file are one shell, which ends at the first that fails. A block
fenced as `text` right after one is what its output must have, line by line and in this order. `sh background` runs until
the file's other blocks are done, and the next block waits until the cluster serves.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

from engine import COMPOSE, EVERYTHING, ROOT, Failed, require, run

FILES = ["docs/quickstart.md", "docs/failures.md", "docs/recovery.md"]
# A project and addresses of its own, so that a cluster that runs already is left alone.
PROJECT, SUBNET, IMAGE = "nezha-docs", "10.239.81.0/24", "nezha:dev"
SERVES = "The cluster serves"
# For one file, in seconds: a command that hangs is a failure.
PATIENCE = 300
BASH = ["bash", "-euo", "pipefail"]
# Somebody who types is slower than a process that ends: what is sent to it in its last moment has an unknown outcome.
PREAMBLE = 'kill() { command kill "$@"; while command kill -0 "${@: -1}" 2>/dev/null; do sleep 0.05; done; }\n'
BLOCK = re.compile(r"^```([a-z ]+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
ENV = {
    **os.environ,
    "COMPOSE_PROJECT_NAME": PROJECT,
    "NEZHA_PEERS_SUBNET": SUBNET,
    "NEZHA_IMAGE": IMAGE,
    "BASE": "debian",
}


def blocks(text):
    """Commands, and the lines that their output must have."""
    found = []
    for kind, body in BLOCK.findall(text):
        if kind == "text":
            require(found, "output before any command")
            found[-1][2].extend(body.splitlines())
        elif kind in ("sh", "sh background"):
            found.append((kind, body, []))
        else:
            raise Failed(f"a block of kind {kind!r} is not tested")
    return found


def expect(output, lines, command):
    at = 0
    for line in lines:
        found = output.find(line, at)
        require(found >= 0, f"{command}\nhas no {line!r} in\n{output}")
        at = found + len(line)


class Background:
    """A command that runs beside the others, in a group of processes of its own."""

    def __init__(self, command):
        self.log = ROOT / "target/cluster-test/background.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as output:
            self.process = subprocess.Popen(
                [*BASH, "-c", command], cwd=ROOT, env=ENV, stdout=output, stderr=output, start_new_session=True
            )
        end = time.monotonic() + PATIENCE
        while SERVES not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                self.end()
                raise Failed(f"{command}does not serve:\n{self.log.read_text()}")
            time.sleep(0.2)

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(60)


def run_file(file):
    text = (ROOT / file).read_text().replace("nezha_", f"{PROJECT}_")
    commands, background = 0, None
    shell = subprocess.Popen(
        BASH,
        cwd=ROOT,
        env=ENV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        start_new_session=True,
    )
    watchdog = threading.Timer(PATIENCE, os.killpg, [shell.pid, signal.SIGKILL])
    watchdog.start()
    shell.stdin.write(PREAMBLE)
    try:
        for number, (kind, body, expected) in enumerate(blocks(text)):
            if kind == "sh background":
                background = Background(body)
                continue
            mark = f"--- end of block {number} ---"
            # Nothing that is run may read the commands that follow.
            shell.stdin.write(f"{{\n{body}}} </dev/null\necho '{mark}'\n")
            shell.stdin.flush()
            output = ""
            for line in shell.stdout:
                # A value that was printed has no line break of its own.
                output += line.replace(mark, "")
                if mark in line:
                    break
            else:
                raise Failed(f"{file}: exit code {shell.wait()} of\n{body}{output}")
            expect(output, expected, f"{file}: {body}")
            commands += len([line for line in body.splitlines() if line.strip()])
    finally:
        watchdog.cancel()
        shell.stdin.close()
        shell.wait(60)
        if background:
            background.end()
    return commands


def down():
    run(COMPOSE, *EVERYTHING, "down", "--volumes", "--remove-orphans", "--timeout", "5", env=ENV, check=False)


def main():
    failed = False
    down()
    for file in FILES:
        began = time.monotonic()
        # The failures are those of a cluster that runs; the other texts start their own.
        if file == "docs/failures.md":
            run("make", "up", cwd=ROOT, env=ENV, timeout=300)
        try:
            commands = run_file(file)
            require(commands > 5, f"{file}: only {commands} lines of commands were found")
            print(f"{file}: {commands} lines of commands were run in {time.monotonic() - began:.0f} s", flush=True)
        except Failed as error:
            failed = True
            print(f"FAILED: {error}", file=sys.stderr, flush=True)
        down()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
