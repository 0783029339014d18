"""That nothing is left of a run, and that a step log which is cut and written on is read well."""

import os
import tempfile
import unittest
from pathlib import Path

from harness.processes import JsonLines, Processes, RunFailed, adopt_orphans, children, wait_for


class Leftovers(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)

    def test_what_left_its_session_and_its_parent_is_ended_too(self):
        adopt_orphans()
        with Processes(self.directory, self.directory) as processes:
            started = processes.start("output", ["bash", "-c", "setsid sleep 1000 & echo $!"])
            started.wait()
            orphan = int(started.log.read_text())
            os.kill(orphan, 0)
        with self.assertRaises(ProcessLookupError):
            os.kill(orphan, 0)
        self.assertEqual(children(), [])

    def test_a_process_that_ends_early_is_no_endless_wait(self):
        with Processes(self.directory, self.directory) as processes:
            started = processes.start("output", ["bash", "-c", "echo an Error here; echo more; exit 3"])
            with self.assertRaisesRegex(RunFailed, "status 3 before it sang: an Error here"):
                wait_for("it sang", lambda: None, [started], 30)


class Lines(unittest.TestCase):
    def test_a_line_is_seen_once_also_where_a_branch_was_cut_off(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "log"
            log = JsonLines(path, key=lambda line: (line["generation"], line["step"]))
            self.assertEqual(log.read(), [])
            path.write_text('{"generation": 1, "step": 1}\n{"generation": 1, "step": 2}\n{"gener')
            self.assertEqual([line["step"] for line in log.read()], [1, 2])
            path.write_text('{"generation": 1, "step": 1}\n{"generation": 2, "step": 2}\n')
            found = [(line["generation"], line["step"]) for line in log.read()]
            self.assertEqual(found, [(1, 1), (1, 2), (2, 2)])


if __name__ == "__main__":
    unittest.main()
