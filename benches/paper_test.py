"""Goal: a suite runs what is missing, within its budget, and its figures, tables and page follow from the recorded lines.
No process is started but those that print JSON lines; `testdata/bench.jsonl` was made up, not measured."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import types
import unittest
from unittest import mock

import claims
import clusters
import common
import figures
import memory_limit
import paper
import report
import suite
import tables
from clusters import Failed
from suite import Turn

RECORDED = pathlib.Path(__file__).parent / "testdata" / "bench.jsonl"


def options(mode="bench", *more):
    return paper.parse([mode, *more])


def line(turn, took=20.0, seconds=2.0, **fields):
    """A line of a turn that went well."""
    return {
        "kind": "turn", "part": turn.part, "system": turn.system, "size": turn.size, "repetition": turn.repetition,
        "seconds": seconds, "took": took,
    } | fields


def put(turn, rate):
    return line(turn, ops={"put": {"rate": rate}})


class Turns(unittest.TestCase):
    def test_systems_take_turns_within_each_repetition(self):
        chosen = options("bench", "--systems", "nezha,etcd", "--sizes", "1KiB,4KiB", "--time-systems", "none")
        names = [(turn.repetition, turn.size, turn.system) for turn in suite.turns_of(chosen)]
        self.assertEqual(names[:3], [(0, 1024, "nezha"), (0, 1024, suite.RAW), (0, 1024, "etcd")])
        self.assertEqual(names[6:9], [(1, 1024, "etcd"), (1, 1024, suite.RAW), (1, 1024, "nezha")])
        self.assertEqual(len(names), 12)

    def test_every_part_has_its_turns(self):
        turns = suite.turns_of(options("paper"))
        self.assertEqual({turn.part for turn in turns}, {"sizes", "memory", "ycsb", "time"})
        self.assertEqual(len(turns), len(set(turns)))
        self.assertEqual({turn.repetition for turn in turns if turn.part == "time"}, {0})

    def test_small_values_are_many_enough_to_leave_memtables(self):
        chosen = options("paper")
        keys = suite.keys_of(chosen, Turn("sizes", "nezha", 64, 0))
        self.assertGreater(keys * (64 + 24), 128 << 20)
        self.assertEqual(suite.keys_of(chosen, Turn("sizes", "nezha", 256, 0)), 500_000)
        self.assertEqual(suite.keys_of(options("bench"), Turn("sizes", "nezha", 256, 0)), 100_000)
        memory = suite.keys_of(chosen, Turn("memory", "nezha", 16384, 0))
        self.assertGreater(memory * 16384, chosen.memory_limit)

    def test_scans_of_large_rows_have_fewer_clients(self):
        chosen = options("bench")
        clients = [suite.scan_clients_of(chosen, size << 10, 100) for size in (1, 16, 64, 256)]
        self.assertEqual(clients, [32, 32, 20, 5])
        self.assertEqual(suite.scan_clients_of(chosen, 64 << 20, 100), 1)

    def test_small_values_are_loaded_by_more_clients(self):
        chosen = options("paper")
        clients = [suite.load_clients_of(chosen, size) for size in (64, 1 << 10, 2 << 10, 4 << 10, 256 << 10)]
        self.assertEqual(clients, [512, 512, 256, 128, 128])
        self.assertEqual(suite.load_clients_of(options("bench"), 64), 128)

    def test_a_group_is_what_the_clients_fill_up_to_the_writers_bound(self):
        self.assertEqual(suite.group_of(64, 1), 4096)
        self.assertEqual(suite.group_of(1024, 128), 128 << 10)
        self.assertEqual(suite.group_of(256 << 10, 128), 8 << 20)


class Budget(unittest.TestCase):
    def test_phases_get_shorter_before_repetitions_are_dropped(self):
        chosen = options("bench")
        turns, lengths = suite.turns_of(chosen), suite.Lengths(chosen)
        at_most = lengths.total(turns, suite.LONGEST)
        at_least = lengths.total(turns, suite.SHORTEST)
        self.assertEqual(suite.divide(turns, lengths, at_most + 1), (suite.LONGEST, 2))
        seconds, repetitions = suite.divide(turns, lengths, (at_most + at_least) / 2)
        self.assertEqual(repetitions, 2)
        self.assertTrue(suite.SHORTEST < seconds < suite.LONGEST)
        self.assertLessEqual(lengths.total(turns, seconds), (at_most + at_least) / 2)
        self.assertEqual(suite.divide(turns, lengths, at_least - 1)[1], 1)
        self.assertEqual(suite.divide(turns, lengths, 1), (suite.SHORTEST, 1))

    def test_the_defaults_fit_with_all_repetitions(self):
        for mode, longest in [("paper", 180), ("bench", 15)]:
            chosen = options(mode)
            turns, lengths = suite.turns_of(chosen), suite.Lengths(chosen)
            seconds, repetitions = suite.divide(turns, lengths, chosen.minutes * 60)
            self.assertEqual(repetitions, chosen.repetitions)
            self.assertLessEqual(lengths.total(turns, seconds), longest * 60)

    def test_what_turns_took_replaces_the_guess(self):
        chosen = options("bench")
        turn = Turn("sizes", "nezha", 1024, 1)
        lengths = suite.Lengths(chosen)
        guess = lengths.overhead(turn)
        lengths.learn(line(Turn("sizes", "etcd", 1024, 0), took=3.0, failed="it did not start"))
        self.assertEqual(lengths.overhead(turn), guess)
        lengths.learn(line(Turn("sizes", "etcd", 1024, 0), took=100.0, seconds=2.0))
        self.assertAlmostEqual(lengths.overhead(turn), 100 - 3 * (2 + chosen.warmup))


class Stage:
    """Runs turns without processes, and notes them."""

    def __init__(self, chosen, took):
        self.options = chosen
        self.ran = []
        self.clock = 0.0
        self.took = took

    def run(self, turn, seconds):
        self.ran.append(turn)
        self.clock += self.took
        if turn.system == "etcd":
            raise Failed("etcd is not ready")
        return {"ops": {"put": {"rate": 1.0}}}


class Resumption(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "bench.jsonl"
        quiet = mock.patch("clusters.sys.stderr", io.StringIO())
        quiet.start()
        self.addCleanup(quiet.stop)

    def go(self, chosen, took=10.0):
        """One run of the suite on the file."""
        results = suite.Results(self.path)
        plan = results.plan(chosen) or paper.make_plan(chosen, results)
        stage = Stage(chosen, took)
        with mock.patch.object(paper.time, "monotonic", lambda: stage.clock):
            paper.run_turns(stage, results, plan)
        results.file.close()
        return stage.ran

    def chosen(self, *more):
        return options(
            "bench", "--systems", "nezha,original:paper", "--sizes", "1KiB", "--time-systems", "none", "--seconds", "1", *more
        )

    def test_finished_turns_are_not_run_again(self):
        ran = self.go(self.chosen())
        self.assertEqual(len(ran), 6)
        lines = self.path.read_text().splitlines(keepends=True)
        # Killed within the third turn's line.
        self.path.write_text("".join(lines[:3]) + lines[3][:20])
        self.assertEqual(self.go(self.chosen()), ran[2:])
        self.assertEqual(len(suite.Results(self.path).done()), 6)

    def test_failed_turns_are_run_again(self):
        chosen = self.chosen("--systems", "nezha,etcd")
        self.assertEqual(len(self.go(chosen)), 6)
        self.assertEqual([turn.system for turn in self.go(chosen)], ["etcd", "etcd"])

    def test_other_settings_are_refused(self):
        self.go(self.chosen())
        with self.assertRaisesRegex(Failed, "volume"):
            self.go(self.chosen("--volume", "1GiB"))

    def test_the_budget_ends_a_run_and_counts_earlier_ones(self):
        # Four turns of ten seconds and what the next one is expected to take.
        ran = self.go(self.chosen("--minutes", "0.75"))
        self.assertEqual([turn.repetition for turn in ran], [0, 0, 0, 1])
        dropped = suite.Results(self.path).of_kind("dropped")
        self.assertEqual((dropped[0]["turns"], dropped[0]["repetitions"]), (2, [1]))
        # Nothing more fits into the same budget; more time runs what was left out.
        self.assertEqual(self.go(self.chosen("--minutes", "0.75")), [])
        self.assertEqual(len(self.go(self.chosen("--minutes", "10"))), 2)


class Arithmetic(unittest.TestCase):
    def test_geometric_mean(self):
        self.assertAlmostEqual(figures.geometric_mean([2, 8]), 4)
        self.assertAlmostEqual(figures.geometric_mean([3]), 3)
        self.assertIsNone(figures.geometric_mean([]))

    def test_ratios_are_taken_within_repetitions(self):
        rates = {"nezha": [100, 400, 900], "etcd": [50, 100, 450]}
        lines = [
            put(Turn("sizes", system, 1024, at), rate) for system, all_ in rates.items() for at, rate in enumerate(all_)
        ]
        # A repetition that only one side has, and one that failed, give no ratio.
        lines += [put(Turn("sizes", "nezha", 1024, 3), 1e9), line(Turn("sizes", "etcd", 1024, 3), failed="no leader")]
        found = figures.Figures(lines)
        ratio = found.ratio("sizes", "nezha", "etcd", 1024, figures.of("put", "rate"))
        self.assertEqual((ratio.middle, ratio.low, ratio.high), (2, 2, 4))
        self.assertEqual(len(found.failures), 1)
        self.assertIsNone(found.ratio("sizes", "nezha", "pasv:paper", 1024, figures.of("put", "rate")))

    def test_what_is_missing_is_counted_once_and_not_when_it_was_made_up_for(self):
        turn, other = Turn("sizes", "nezha", 1024, 0), Turn("sizes", "etcd", 1024, 0)
        lines = [line(turn, failed="no leader"), line(turn, failed="no leader"), {"kind": "dropped", "turns": 7}]
        found = figures.Figures(lines)
        self.assertEqual((len(found.failures), found.dropped), (1, 7))
        found = figures.Figures(lines + [put(turn, 1), line(other, failed="no leader"), {"kind": "dropped", "turns": 2}])
        self.assertEqual((len(found.failures), found.dropped), (1, 2))
        self.assertEqual(figures.Figures(lines + [put(turn, 1)]).dropped, 0)

    def test_a_system_that_only_failed_is_told(self):
        lines = [put(Turn("memory", "nezha", 16384, 0), 10), line(Turn("memory", "etcd", 16384, 0), failed="n1 ended")]
        found = figures.Figures(lines)
        self.assertEqual(found.failing("memory"), ["etcd"])
        rows = tables.memory(found).rows
        self.assertEqual([row[0] for row in rows], ["nezha", "etcd"])
        self.assertIn("failed", rows[1])
        self.assertEqual(figures.Figures(lines + [put(Turn("memory", "etcd", 16384, 0), 5)]).failing("memory"), [])

    def test_a_mean_ratio_is_geometric_over_sizes(self):
        rates = {(1024, 0): (2, 1), (1024, 1): (4, 1), (4096, 0): (8, 1), (4096, 1): (16, 1), (65536, 0): (9, None)}
        lines = []
        for (size, at), (above, below) in rates.items():
            lines.append(put(Turn("sizes", "nezha", size, at), above))
            if below:
                lines.append(put(Turn("sizes", "original:paper", size, at), below))
        read = figures.of("put", "rate")
        mean = figures.Figures(lines).mean_ratio("nezha", "original:paper", [1024, 4096, 65536], read)
        self.assertAlmostEqual(mean.middle, 6)  # medians 3 and 12
        self.assertAlmostEqual(mean.low, 4)  # 2 and 8
        self.assertAlmostEqual(mean.high, 8)  # 4 and 16

    def test_the_share_of_the_disk_counts_three_replicas(self):
        lines = [
            line(Turn("sizes", "nezha", 65536, 0), ops={"put": {"mb": 100.0}}),
            line(Turn("sizes", suite.RAW, 65536, 0), disk_mb=400.0),
        ]
        self.assertAlmostEqual(figures.Figures(lines).share_of_disk("nezha", 65536).middle, 0.75)

    def test_goals_are_met_by_medians(self):
        lines = [put(Turn("sizes", name, 1024, at), rate) for at in range(3) for name, rate in [("nezha", 101), ("etcd", 10)]]
        met = {goal.what: goal.met for goal in claims.goals(figures.Figures(lines))}
        self.assertIs(met["put 1 KiB: nezha over etcd"], True)
        self.assertIs(met["get 1 KiB: nezha over etcd"], None)
        lines[0] = put(Turn("sizes", "nezha", 1024, 0), 1)
        lines[2] = put(Turn("sizes", "nezha", 1024, 1), 99)
        met = {goal.what: goal.met for goal in claims.goals(figures.Figures(lines))}
        self.assertIs(met["put 1 KiB: nezha over etcd"], False)

    def test_bounds_follow_the_size(self):
        bounds = [(1024, 10), (16384, 6), (None, 5)]
        self.assertEqual([claims.bound_at(size, bounds) for size in (256, 1024, 4096, 65536)], [10, 10, 6, 5])


class Measured(unittest.TestCase):
    def test_acknowledgements_are_counted_by_whole_seconds(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "acks"
            ends = [9.9, 10.1, 10.9, 12.5, 13.0]
            path.write_text("".join(f"{int(end * 1e6) - 5} {int(end * 1e6)}\n" for end in ends) + "17")
            self.assertEqual(paper.rates_of(path), (10, [2, 0, 1]))
            path.write_text("")
            with self.assertRaisesRegex(Failed, "no put"):
                paper.rates_of(path)

    def test_phases_give_the_figures_of_all_three_servers(self):
        processes = [{"cpu_us_per_op": us, "rss_peak_bytes": us} for us in (10.0, 20.0, None)]
        processes[2]["rss_peak_bytes"] = 5
        said = {"ops_per_second": 50.0, "errors": {"Unavailable": 2}, "processes": processes, "client_cpu_seconds": 1.0}
        loaded = paper.of_load(said | {"mb_per_second": 3.0, "run_ops": 100, "latency_us": {"p50": 7}})
        self.assertEqual((loaded["rate"], loaded["cpu_us"], loaded["rss_peak"]), (50, 30, 20))
        self.assertEqual((loaded["client_cpu_us"], loaded["errors"]), (10_000, 2))
        mixed = paper.of_ycsb(said | {"ops": 50, "operations": {"READ": {"count": 1, "latency_us": {"p50": 7}}}})
        self.assertEqual((mixed["rate"], mixed["latency_us"]["READ"]["p50"], mixed["client_cpu_us"]), (50, 7, 20_000))

    def test_looks_at_gc(self):
        def node(job, used):
            return {"error": None, "job": job, "file_bytes": used, "space": {"bound_bytes": 100}}

        watch = types.SimpleNamespace(samples=[(11.5, [node(None, 50), node({}, 80)]), (12.5, [node({"reason": "x"}, 90)])])
        self.assertEqual(paper.gc_series(watch, 10), [[1.5, 0, 0.8], [2.5, 1, 0.9]])

    def test_memory_that_cannot_be_limited_is_refused_with_the_reasons(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            own = root / "own"
            own.write_text("0::/a\n")
            with self.assertRaisesRegex(Failed, "no memory controller"):
                with memory_limit.MemoryLimit(1 << 30, root, own):
                    pass
            (root / "cgroup.controllers").write_text("cpu memory")
            self.assertEqual(memory_limit.candidates(root, own)[0], (root / "a", "memory.max"))
            with self.assertRaisesRegex(Failed, "--memory-systems none"):
                with memory_limit.MemoryLimit(1 << 30, root / "missing", own):
                    pass


class Rest(unittest.TestCase):
    """A cluster is measured once what it does behind its answers is done."""

    def rest(self, used, most=60):
        """How many looks it takes at nodes that by each of them have taken so many seconds of CPU."""
        cluster = clusters.Cluster("kvd", None, "nowhere")
        looks = iter(used)
        with mock.patch.object(cluster, "cpu_seconds", lambda: next(looks)), mock.patch.object(clusters.time, "sleep"):
            cluster.rest(2, most)
        return len(used) - len(list(looks))

    def test_it_lasts_until_the_nodes_are_idle(self):
        self.assertEqual(self.rest([1.0, 1.5, 2.0, 2.01, 9, 9]), 4)

    def test_it_ends_where_they_never_are(self):
        self.assertEqual(self.rest([1.0, 2.0], most=0), 1)

    def test_cpu_is_read_of_a_process(self):
        before = clusters.cpu_seconds("self")
        for _ in range(1_000_000):
            pass
        self.assertGreaterEqual(clusters.cpu_seconds("self"), before)
        self.assertGreater(clusters.cpu_seconds("self"), 0)


class Page(unittest.TestCase):
    def figures(self):
        return figures.Figures(suite.read_lines(RECORDED))

    def test_all_tables_come_from_a_recorded_file(self):
        made = {table.title: table for table in tables.tables(self.figures())}
        for title in ["Goals", "The paper's claims", "Puts per second", "Raw limits", "CPU per get, us"]:
            self.assertIn(title, made)
        for table in made.values():
            self.assertTrue(all(len(row) == len(table.columns) for row in table.rows), table.title)
            self.assertTrue(all(isinstance(cell, str) for row in table.rows for cell in row), table.title)
        puts = {row[0]: row[1:] for row in made["Puts: nezha over each system"].rows}
        self.assertNotIn("nezha", puts)
        self.assertRegex(puts["etcd"][0], r"^\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)$")

    def test_the_page_needs_no_matplotlib(self):
        with tempfile.TemporaryDirectory() as folder:
            said = io.StringIO()
            with (
                mock.patch.dict("sys.modules", {"matplotlib": None}),
                contextlib.redirect_stderr(said),
                contextlib.redirect_stdout(said),
            ):
                # Another test may have imported it already.
                sys.modules.pop("plots", None)
                report.main([str(RECORDED), "--output", folder])
            page = (pathlib.Path(folder) / "index.html").read_text()
            self.assertIn("python3-matplotlib", page)
            self.assertIn("python3-matplotlib", said.getvalue())
        for part in ["<h2>Goals</h2>", "not met", "nezha over etcd", "fdatasync", "kernel"]:
            self.assertIn(part, page)
        for outside in ["http://", "https://", "<script", "src=\"/", "@import"]:
            self.assertNotIn(outside, page)

    def test_texts_are_escaped(self):
        table = figures.Table("a < b", "<script>", ["<i>"], [["&"]])
        self.assertNotIn("<script>", report.section(table))
        self.assertIn("&amp;", report.section(table))

    def test_no_results_are_an_error_that_says_what_to_run(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(Failed, "paper.py"):
                report.main([folder + "/none.jsonl"])
            empty = pathlib.Path(folder) / "empty.jsonl"
            empty.write_text(json.dumps({"kind": "plan"}) + "\n")
            with self.assertRaisesRegex(Failed, "no finished turn"):
                report.main([str(empty)])

    def test_plots_are_drawn_from_a_recorded_file(self):
        try:
            import plots
        except ImportError:
            self.skipTest("no matplotlib")
        with tempfile.TemporaryDirectory() as folder:
            drawn = plots.draw_all(self.figures(), folder)
            self.assertEqual(len(drawn), 6)
            for _, path in drawn:
                self.assertIn("<svg", path.read_text())
                self.assertTrue(path.with_suffix(".png").read_bytes().startswith(b"\x89PNG"))
        self.assertEqual(plots.spans([[1, 0, None], [2, 1, None], [3, 2, None], [4, 0, None], [5, 1, 0.5]]), [(1, 3), (4, 5)])


if __name__ == "__main__":
    unittest.main()
