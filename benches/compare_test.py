"""Goal: the figures of compare.py follow from what the load generator and the processes said. No process is started."""

import json
import pathlib
import socket
import tempfile
import types
import unittest
from unittest import mock

import clusters
import common
import compare


def result(ops, p50, p99, errors=0):
    return {"ops_per_second": ops, "latency_us": {"p50": p50, "p99": p99}, "errors": {"X": errors} if errors else {}}


class CompareTest(unittest.TestCase):
    def test_sizes(self):
        for text, size in [("256", 256), ("256B", 256), ("64KiB", 65536), ("16MiB", 16 << 20), ("4GiB", 4 << 30)]:
            self.assertEqual(common.parse_size(text), size)
        self.assertEqual(common.size_name(65536), "64 KiB")
        self.assertEqual(common.size_name(1500), "1500 B")

    def test_row_takes_ratios_turn_by_turn(self):
        options = types.SimpleNamespace(stores=["nezha", "etcd"])
        # The third turn of etcd failed: it counts as an error, and its pair gives no ratio.
        results = {
            ("put", "nezha"): [result(100, 1000, 2000), result(400, 1000, 2000), result(900, 1000, 2000)],
            ("put", "etcd"): [result(50, 2000, 8000), result(100, 2000, 8000, errors=2), None],
        }
        row = compare.row_of_grid(options, "put", 1024, 32, results, [10.0, None, 30.0])
        self.assertEqual(row[:3], ["put", "1 KiB", 32])
        self.assertEqual(row[3:9], ["400", "1.00", "2.00", "75.0", "2.00", "8.00"])
        self.assertEqual(row[9:13], ["3.00", "2.00-4.00", "0.50", "0.25"])
        self.assertEqual(row[13:], ["20.0", 3])

    def test_row_of_a_store_that_did_not_start(self):
        options = types.SimpleNamespace(stores=["nezha", "etcd"])
        results = {("get", "nezha"): [], ("get", "etcd"): [result(50, 2000, 8000)]}
        row = compare.row_of_grid(options, "get", 256, 1, results, [])
        self.assertEqual(row[3:6], ["-", "-", "-"])
        self.assertEqual(row[9:], ["-", "-", "-", "-", "-", 0])

    def test_first_acknowledgement_after_a_kill(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "acks"
            at = 1_795_000_000_000_000
            # Begun before the kill; torn; begun after it, out of order; unfinished.
            path.write_text(f"{at - 9} {at + 90}\n{at + 5}\n{at + 30} {at + 80}\n{at + 20} {at + 70}\n{at + 1} {at}")
            self.assertEqual(compare.first_ack_after(path, at, 5), at + 70)
            self.assertIsNone(compare.first_ack_after(path, at + 1000, 0.1))

    def test_stores_are_started_by_their_names(self):
        with tempfile.TemporaryDirectory() as folder:
            cluster = clusters.create("baseline:pasv:paper:no-fsync", "/b/baseline", None, folder)
            self.assertEqual((cluster.store, cluster.driver), ("baseline:pasv:paper:no-fsync", "nezha"))
            command = cluster.command(2)
            self.assertEqual(command[:2], ["/b/baseline", "--name=n3"])
            self.assertEqual(command[-3:], ["--system=pasv", "--settings=paper", "--no-fsync"])
            self.assertEqual(clusters.create("etcd", "/b/etcd", None, folder).driver, "etcd")
            for unknown in ["", "nezhA", "baseline:pasv", "baseline:pasv:paper:fsync"]:
                with self.assertRaises(clusters.Failed):
                    clusters.create(unknown, "/b/baseline", None, folder)

    def test_every_mode_parses_with_its_defaults(self):
        for mode in compare.MODES:
            options = compare.parse([mode])
            self.assertTrue(options.stores and options.repetitions >= 1)
        grid = compare.parse(["grid"])
        self.assertEqual(grid.sizes, [256, 1024, 16384, 65536])
        self.assertEqual(grid.clients, [1, 32, 128])

    def test_a_node_that_ended_is_named_with_the_end_of_its_log(self):
        with tempfile.TemporaryDirectory() as folder:
            cluster = clusters.Nezha("/bin/sh", None, folder)
            cluster.command = lambda node: ["/bin/sh", "-c", "echo no room; exit 3" if node == 1 else "sleep 60"]
            for node in range(clusters.NODES):
                cluster.execute(node)
            try:
                cluster.processes[1].wait(10)
                with self.assertRaisesRegex(clusters.Failed, r"nezha: n2 ended\n(.|\n)*exit code 3\): no room"):
                    cluster.check_running()
                with self.assertRaises(clusters.Failed):
                    cluster.written()
                self.assertGreaterEqual(cluster.written_by(0), 0)
            finally:
                cluster.stop()

    def test_tree_bytes_counts_allocated_blocks(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "a").write_bytes(bytes(100_000))
            self.assertGreaterEqual(clusters.tree_bytes(folder), 100_000)

    def test_free_ports_differ_and_are_not_the_kernels(self):
        ports = clusters.free_ports(6)
        self.assertEqual(len(set(ports)), 6)
        self.assertLess(max(ports), 32768)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", ports[0]))
            with mock.patch.object(clusters, "PORTS", range(ports[0], ports[0] + 1)):
                with self.assertRaisesRegex(clusters.Failed, str(ports[0])):
                    clusters.free_ports(1)

    def test_bench_json_takes_the_last_line_and_reports_failures(self):
        echo = clusters.Bench(["printf", "noise\n%s\n"])
        self.assertEqual(echo.json([json.dumps({"a": 1})], [], 10), {"a": 1})
        failing = clusters.Bench(["sh", "-c", "echo why >&2; exit 3"])
        with self.assertRaisesRegex(clusters.Failed, "why"):
            failing.json([], [], 10)
        slow = clusters.Bench(["sleep"])
        with self.assertRaisesRegex(clusters.Failed, "no end"):
            slow.json([5], [], 0.1)


if __name__ == "__main__":
    unittest.main()
