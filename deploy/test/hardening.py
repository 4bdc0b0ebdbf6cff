"""What a container of a node may do: asked of Docker, and then of the kernel."""

import pathlib
import stat

from engine import docker, inspect, require, run

USER = 65532
PROGRAMS = {"usr/local/bin/kvd", "usr/local/bin/kvctl"}
TEXTS = {"etc/nsswitch.conf", "etc/passwd", "etc/group"}
# Docker puts these into every container that is created.
DOCKERS = {".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "dev/console"}


def check_image(image):
    """The image holds two programs, what they load, and three short texts."""
    config = inspect(image)["Config"]
    require(config["User"] == f"{USER}:{USER}", f"the image's user is {config['User']}")
    require(list(config["Volumes"]) == ["/data"], f"volumes {config['Volumes']}")
    require(config["StopSignal"] == "SIGTERM", f"stop signal {config['StopSignal']}")
    require(config["Healthcheck"]["Test"][:2] == ["CMD", "kvctl"], f"health check {config['Healthcheck']}")
    require(config["Entrypoint"] == ["kvd"], f"entrypoint {config['Entrypoint']}")
    for label in ("title", "description", "licenses", "version", "revision", "created"):
        require(config["Labels"].get(f"org.opencontainers.image.{label}"), f"the label {label} is missing")
    made = docker("create", image)
    try:
        listed = run("sh", "-c", f"docker export {made} | tar --list --verbose --numeric-owner").stdout.splitlines()
    finally:
        docker("rm", "--volumes", made)
    files = set()
    for line in listed:
        mode, owner, *_, name = line.split(" -> ")[0].split(" link to ")[0].split()
        require("s" not in mode.lower(), f"{name} is set-id: {mode}")
        if mode.startswith("d"):
            if name == "data/":
                require((mode, owner) == ("drwx------", f"{USER}/{USER}"), f"/data is {mode} {owner}")
            continue
        files.add(name)
    libraries = {name for name in files if ".so" in pathlib.PurePath(name).name}
    extra = files - PROGRAMS - TEXTS - DOCKERS - libraries
    require(PROGRAMS | TEXTS <= files, f"missing in the image: {(PROGRAMS | TEXTS) - files}")
    require(not extra, f"in the image, but not known: {sorted(extra)}")
    return sorted(libraries)


def check_container(cluster, node):
    """Of a node that runs."""
    found = inspect(cluster.id(node))
    host, config = found["HostConfig"], found["Config"]

    def holds(what, holds):
        require(holds, f"{node}: {what}")

    holds("the root file system is read-only", host["ReadonlyRootfs"])
    holds("all capabilities are dropped", host["CapDrop"] == ["ALL"] and not host["CapAdd"])
    holds("no new privileges", any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]))
    holds("Docker's own seccomp profile", not any("seccomp" in option for option in host["SecurityOpt"]))
    holds("not privileged", not host["Privileged"])
    holds("a bound on processes", 0 < host["PidsLimit"] <= 1024)
    holds("a bound on memory", host["Memory"] > 0)
    holds("a bound on processors", host["NanoCpus"] > 0)
    holds("no port of the host", not host["PortBindings"])
    modes = [host["NetworkMode"], host["PidMode"], host["IpcMode"], host["UTSMode"], host["UsernsMode"]]
    holds("no namespace of the host", "host" not in modes)
    holds("no device of the host", not host["Devices"])
    holds("time to stop", config["StopTimeout"] == 30)
    mounts = [(mount["Destination"], mount["Type"]) for mount in found["Mounts"] if mount["RW"]]
    holds(f"the data volume is all that can be written: {mounts}", mounts == [("/data", "volume")])

    process = pathlib.Path(f"/proc/{found['State']['Pid']}")
    facts = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    holds("it is kvd", facts["Name"] == "kvd")
    for which in ("Uid", "Gid"):
        holds(f"{which} {facts[which]}", facts[which].split() == [str(USER)] * 4)
    for which in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        holds(f"{which} {facts[which]}", int(facts[which], 16) == 0)
    holds("no new privileges, says the kernel", facts["NoNewPrivs"] == "1")
    holds("seccomp filters, says the kernel", facts["Seccomp"] == "2")
    data = (process / "root/data").stat()
    holds(f"/data has mode {oct(data.st_mode)}", stat.S_IMODE(data.st_mode) == 0o700 and data.st_uid == USER)
    writable = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    real = [fields[4] for fields in writable if "rw" in fields[5].split(",") and not virtual(fields)]
    holds(f"mounted writable: {real}", real == ["/data"])
    holds("no shared memory", not (process / "root/dev/shm").is_mount())
    for shell in ("sh", "/bin/sh", "bash", "busybox", "ls"):
        done = run("docker", "exec", cluster.id(node), shell, "-c", "true", check=False)
        holds(f"{shell} cannot be run: {done.returncode} {done.stdout}{done.stderr}", done.returncode in (126, 127))
    control = run("docker", "exec", cluster.id(node), "kvctl", "--version", check=False)
    holds(f"what is there can be run: {control.stderr}", control.returncode == 0)


def virtual(fields):
    """Whether a line of mountinfo is about the kernel's own places, and what Docker masks there. They keep nothing."""
    return fields[4].split("/")[1] in ("proc", "sys", "dev")


def check_networks(cluster, image):
    """The members' port is for members: clients neither find its name nor reach it."""
    require(inspect(cluster.network("peers"))["Internal"], "the members' network leads elsewhere")

    def ask(network, endpoint):
        container = ["docker", "run", "--rm", "--no-healthcheck", "--network", cluster.network(network)]
        health = ["--entrypoint", "kvctl", image, "--endpoints", endpoint, "--timeout", "2s", "health"]
        return run(*container, *health, check=False)

    node = cluster.nodes[0]
    done = ask("clients", f"{node}:7379")
    require(done.returncode == 0, f"a client does not reach {node}: {done.stdout}{done.stderr}")
    done = ask("clients", f"{cluster.address(node, 'clients')}:7380")
    require("refused" in done.stdout, f"a client reaches the members' port: {done.stdout}{done.stderr}")
    done = ask("clients", f"{node}.peers:7380")
    require(done.returncode == 6 and "healthy: " in done.stdout, f"{done.stdout}{done.stderr}")
    require("lookup" in done.stdout or "resol" in done.stdout, f"a client finds the members' names: {done.stdout}")
    # The same question within the members' network is answered, if not in these words.
    done = ask("peers", f"{node}.peers:7380")
    require("refused" not in done.stdout and "lookup" not in done.stdout, f"{done.stdout}{done.stderr}")
