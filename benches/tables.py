"""The tables of a results file, for a terminal and for a page."""

import claims
from common import number, size_name
from figures import Table, by_system, highest, latency, of, text_of
from suite import PHASES, RAW

TITLES = {"put": "Puts", "get": "Linearizable gets", "scan": "Scans"}


def tables(figures):
    """All tables that the results have something for."""
    found = [claims.of_the_paper(figures), claims.of_the_goals(figures)]
    for op in TITLES:
        found += [rates(figures, op), ratio_table(figures, op)]
    found += [
        by_system(
            figures,
            "Bytes written per logical byte",
            "By the node that wrote most, over the load before the measurements: each key once, whole pages counted. "
            "Values below 4 KiB are loaded by as many clients as load_clients says: with larger groups, less is written.",
            lambda system, size: number(figures.middle("sizes", system, size, highest("written"))),
        ),
        by_system(
            figures,
            "Bytes on disk per logical byte",
            "Of the largest data directory, after the same load and a rest.",
            lambda system, size: number(figures.middle("sizes", system, size, highest("stored"))),
        ),
        by_system(
            figures,
            "CPU per put, us",
            "Of the three servers together; the load generator's own is beside it, in brackets.",
            lambda system, size: cpu(figures, system, size, "put"),
        ),
        by_system(
            figures,
            "CPU per get, us",
            "Of the three servers together; the load generator's own is beside it, in brackets.",
            lambda system, size: cpu(figures, system, size, "get"),
        ),
        *raw_tables(figures),
        ycsb(figures),
        memory(figures),
    ]
    return [table for table in found if table]


def rates(figures, op):
    def cell(system, size):
        rate = figures.middle("sizes", system, size, of(op, "rate"))
        if rate is None:
            return "-"
        return f"{number(rate, 1)} (p99 {number(figures.middle('sizes', system, size, latency(op, 'p99')), 1)} ms)"

    return by_system(figures, f"{TITLES[op]} per second", "Medians; in brackets the median of the 99th percentiles.", cell)


def ratio_table(figures, op):
    """What the product does per one operation of each other system."""
    if "nezha" not in figures.systems():
        return None
    sizes = figures.sizes()
    others = [system for system in figures.systems() if system != "nezha"]
    table = by_system(
        figures,
        f"{TITLES[op]}: nezha over each system",
        "Median (extremes) of the ratios of single repetitions; the mean is geometric, over the sizes.",
        lambda system, size: text_of(figures.ratio("sizes", "nezha", system, size, of(op, "rate"))),
        systems=others,
    )
    if table:
        table.columns.append("mean")
        for row in table.rows:
            row.append(text_of(figures.mean_ratio("nezha", row[0], sizes, of(op, "rate"))))
    return table


def cpu(figures, system, size, op):
    servers, client = (figures.middle("sizes", system, size, of(op, name)) for name in ("cpu_us", "client_cpu_us"))
    return "-" if servers is None else f"{number(servers, 0)} ({number(client, 0)})"


def raw_tables(figures):
    """The raw limits, and what share of them is reached."""
    names = {
        "disk_mb": "disk, MB/s of three writers",
        "disk_direct_mb": "the same past the page cache",
        "syncs": "syncs/s of the faster ones",
        "group": "bytes of each",
        "echo_unary": "unary echo/s",
        "echo_stream": "streamed echo/s",
    }
    sizes = figures.sizes()
    limits = [
        [name] + [number(figures.middle("sizes", RAW, size, lambda turn: turn.get(field))) for size in sizes]
        for field, name in names.items()
    ]
    limits = [row for row in limits if any(cell != "-" for cell in row[1:])]
    note = (
        "Records as large as the largest group that the clients can fill, each with one put in flight: an upper bound. "
        "The disk's is that of the faster way, through the page cache or past it."
    )
    yield Table("Raw limits", note, ["limit"] + [size_name(size) for size in sizes], limits) if limits else None
    yield by_system(
        figures,
        "Puts: share of the raw disk",
        "Bytes of values times three replicas, over what three raw writers sync in the same repetition.",
        lambda system, size: text_of(figures.share_of_disk(system, size)),
    )
    yield by_system(
        figures,
        "Puts: share of an echo",
        "Puts per second over what a server without a store answers: unary calls for nezha-unary and etcd, else a stream.",
        lambda system, size: text_of(figures.share_of_echo(system, size, "put", echo_of(system))),
    )


def echo_of(system):
    """How a system's requests travel."""
    return "unary" if system in ("nezha-unary", "etcd") else "stream"


def ycsb(figures):
    """Operations per second of Load and A to F."""
    sizes = figures.sizes("ycsb")
    rows = []
    for system in figures.systems("ycsb"):
        cells = []
        for phase in ("load", *sorted(PHASES["ycsb"])):
            rate = figures.middle("ycsb", system, sizes[0], of(phase, "rate"))
            ratio = figures.ratio("ycsb", "nezha", system, sizes[0], of(phase, "rate"))
            cells.append(number(rate) + (f" ({ratio.middle:.2f})" if ratio and system != "nezha" else ""))
        rows.append([system] + cells)
    if not rows:
        return None
    note = f"Values of {size_name(sizes[0])}, medians; in brackets how many times as many nezha does, in the same repetition."
    return Table("YCSB, operations per second", note, ["system", "Load"] + [name.upper() for name in sorted(PHASES["ycsb"])], rows)


def memory(figures):
    """The part with less memory than data."""
    rows = []
    for size in figures.sizes("memory"):
        for system in figures.systems("memory"):
            rates_ = [figures.middle("memory", system, size, of(op, "rate")) for op in TITLES]
            rows.append([system, size_name(size)] + [number(rate, 1) for rate in rates_])
    rows += [[system, "-"] + ["failed"] * len(TITLES) for system in figures.failing("memory")]
    note = (
        "The same on more data than memory: a control group bounds the processes and what is cached for them. Where it says "
        "failed, a node was killed for taking more, or did not answer: the results file tells."
    )
    return Table("With little memory, operations per second", note, ["system", "value", *TITLES.values()], rows) if rows else None
