"""A bound on the memory of processes, page cache included: a memory control group, version 2 or 1."""

import os
import pathlib
import time

from clusters import Failed

ROOT = pathlib.Path("/sys/fs/cgroup")


class MemoryLimit:
    """A group of its own while in use; `join` moves the calling process into it.

    Memory and cached pages of all its processes together stay below `limit` bytes: the kernel drops cached pages first,
    and kills a process only when there are none left.
    """

    def __init__(self, limit, root=ROOT, own=pathlib.Path("/proc/self/cgroup")):
        self.limit = limit
        self.path = None
        self.root = root
        self.own = own

    def __enter__(self):
        tried = []
        for parent, file in candidates(self.root, self.own):
            try:
                self.path = make(parent, file, self.limit)
                return self
            except OSError as error:
                tried.append(f"{parent}: {error.strerror or error}")
        reasons = "; ".join(tried) or f"no memory controller below {self.root}"
        raise Failed(
            f"cannot limit memory with a control group ({reasons}). Run as root where cgroup v2 has the memory "
            "controller or v1 has a memory hierarchy, or leave the part out with --memory-systems none"
        )

    def join(self):
        """For the child, between fork and exec."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def __exit__(self, *_):
        # The kernel lets a group go only when its last process is gone, which may take a moment.
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)
        raise Failed(f"{self.path} cannot be removed: some process is still in it")


def candidates(root, own):
    """(directory that a group may be made in, file that states its limit), the likeliest first."""
    within = {}
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            within[controller] = path.lstrip("/")
    found = []
    for v2 in (root, root / "unified"):
        controllers = v2 / "cgroup.controllers"
        if controllers.exists() and "memory" in controllers.read_text().split():
            found += [(v2 / within.get("", ""), "memory.max"), (v2, "memory.max")]
    if (root / "memory" / "cgroup.procs").exists():
        v1 = root / "memory"
        found += [(v1 / within.get("memory", ""), "memory.limit_in_bytes"), (v1, "memory.limit_in_bytes")]
    return [candidate for at, candidate in enumerate(found) if candidate not in found[:at]]


def make(parent, file, limit):
    """Makes a group below `parent`. OSError when it cannot be limited."""
    path = parent / f"nezha-bench-{os.getpid()}"
    path.mkdir()
    try:
        if not (path / file).exists():
            # Version 2: the parent has to hand the controller down.
            (parent / "cgroup.subtree_control").write_text("+memory")
        (path / file).write_text(str(limit))
    except OSError:
        path.rmdir()
        raise
    return path
