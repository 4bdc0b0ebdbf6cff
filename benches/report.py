#!/usr/bin/env python3
"""Makes one HTML page, without outside resources, of results of paper.py; and its plots as SVG and PNG beside it.

The tables need Python alone. The plots need matplotlib; without it the page has no plots, and says so.
"""

import argparse
import base64
import html
import pathlib
import sys

from clusters import Failed, say
from common import number
from figures import Figures
from suite import read_lines
from tables import tables

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; }
p { max-width: 50rem; margin: .4rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; }
td.met::before { content: "\\2713 "; } td.met { color: #00604a; font-weight: 600; }
td.not-met::before { content: "\\2717 "; } td.not-met { color: #a33b00; font-weight: 600; }
td.not-measured { color: #777; }
img { max-width: 100%; height: auto; margin: .4rem 0; }
dt { font-weight: 600; float: left; clear: left; width: 9rem; } dd { margin-left: 9.5rem; }
"""

METHOD = [
    "Each system is three server processes on loopback of one machine, with the load generator on the same cores. A turn "
    "starts an empty cluster of one system, loads the same keys into it, and after a rest measures linearizable gets, "
    "scans, then puts of new keys on top; each phase is warmed up first. Systems take turns within a repetition, in the "
    "opposite order in every second one.",
    "Every system syncs on a quorum before it acknowledges, with real fdatasync. The baselines are the same server, "
    "network, Raft and log over another storage engine; etcd is etcd 3.5 with its defaults. Settings named paper are "
    "RocksDB's defaults without block cache and filters, as in the paper's prototype; tuned ones are what one would run.",
    "After the load each system is left alone until its nodes are idle, a minute at most, so that flushes and compactions "
    "of the load are over; then nezha is told to collect once. Clients are closed "
    "loops: latencies are those under full load. Scans are of 100 rows, with fewer clients where more than 128 MiB of rows "
    "would be in flight. Every value that is read is verified.",
    "Bytes written are write_bytes of /proc, which counts whole pages; CPU is user and system time of the servers. The "
    "raw disk is three writers that append and sync records as large as the largest group that the clients can fill, "
    "through the page cache or past it, whichever is faster.",
    "Ratios are taken within one repetition; tables show the median and, in brackets, the extremes.",
]


def page(figures, drawn, missing):
    """The whole page as text. `drawn`: (title, path of an SVG) of each plot; `missing`: why there are none."""
    title = f"Nezha: {figures.plan.get('fixed', {}).get('mode', 'benchmark')}"
    made = tables(figures)
    first = [table for table in made if table.title in ("Goals", "The paper's claims")]
    parts = [f"<h1>{html.escape(title)}</h1>", summary(figures)]
    parts += [section(table) for table in first]
    parts += [plot(title_, path) for title_, path in drawn]
    if missing:
        parts.append(f"<p><strong>No plots:</strong> {html.escape(missing)}</p>")
    parts += [section(table) for table in made if table not in first]
    parts += ["<h2>How it was measured</h2>", *(f"<p>{html.escape(text)}</p>" for text in METHOD), machine(figures)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def summary(figures):
    """What was run, and what is missing."""
    plan = figures.plan
    texts = [f"{plan.get('repetitions', '?')} repetitions, phases of {plan.get('seconds', '?')} s."]
    if figures.dropped:
        texts.append(f"The time budget left {figures.dropped} turns out.")
    if figures.failures:
        texts.append(f"{len(figures.failures)} turns failed and have no figures.")
    return f"<p>{' '.join(texts)} Compare ratios, not absolute figures, with other machines.</p>"


def section(table):
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "\n".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in table.rows)
    return (
        f"<h2>{html.escape(table.title)}</h2>\n<p>{html.escape(table.note)}</p>\n"
        f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'
    )


def cell(text):
    kind = text.replace(" ", "-") if text in ("met", "not met", "not measured") else ""
    return f'<td class="{kind}">{html.escape(text)}</td>' if kind else f"<td>{html.escape(text)}</td>"


def plot(title, path):
    """An image that is part of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" src="data:image/svg+xml;base64,{data}">'


def machine(figures):
    facts = {name: value for name, value in figures.facts.items() if name not in ("kind", "unix")}
    facts |= figures.plan.get("fixed", {})
    rows = []
    for name, value in facts.items():
        text = " ".join(map(str, value)) if isinstance(value, list) else number(value, 1) if isinstance(value, float) else value
        rows.append(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(text)) or '-'}</dd>")
    return "<h2>Machine and settings</h2>\n<dl>" + "\n".join(rows) + "</dl>"


def draw(figures, directory):
    """(plots, why there are none)."""
    try:
        import plots
    except ImportError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        return [], (
            "this Python has no matplotlib. Install Debian's python3-matplotlib and run with /usr/bin/python3, "
            "or: pip install matplotlib"
        )
    return plots.draw_all(figures, directory), None


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, help="JSON lines that paper.py has written")
    parser.add_argument("--output", type=pathlib.Path, help="directory for the page and its plots (default: beside the results)")
    options = parser.parse_args(arguments)
    if not options.results.exists():
        raise Failed(f"{options.results} does not exist: run paper.py paper or paper.py bench first")
    figures = Figures(read_lines(options.results))
    if not figures.systems() and not figures.systems("ycsb"):
        raise Failed(f"{options.results} has no finished turn yet")
    directory = options.output or options.results.with_suffix("")
    directory.mkdir(parents=True, exist_ok=True)
    drawn, missing = draw(figures, directory)
    if missing:
        say(f"no plots: {missing}")
    path = directory / "index.html"
    path.write_text(page(figures, drawn, missing))
    print(path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as failure:
        sys.exit(f"report.py: {failure}")
