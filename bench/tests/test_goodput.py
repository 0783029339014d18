"""Reading a step log that grows, and of which lines are cut off."""

import json
import tempfile
import unittest
from pathlib import Path

from harness.goodput import Steps


def text(*lines):
    return "".join(json.dumps({"step": step, "generation": generation}) + "\n" for generation, step in lines)


class GrowingLog(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "metrics.jsonl"
        self.log = Steps(self.path)

    def read(self):
        return [(line["generation"], line["step"]) for line in self.log.read()]

    def test_takes_whole_lines_only_and_each_once(self):
        self.assertEqual(self.read(), [])
        self.path.write_text(text((1, 1)) + '{"step": 2')
        self.assertEqual(self.read(), [(1, 1)])
        self.path.write_text(text((1, 1), (1, 2)))
        self.assertEqual(self.read(), [(1, 1), (1, 2)])
        self.assertEqual(self.read(), [(1, 1), (1, 2)])

    def test_lines_that_are_cut_off_are_gone_and_the_others_keep_their_time(self):
        self.path.write_text(text((1, 1), (1, 2), (1, 3)))
        first = self.log.read()[0]["seen"]
        self.path.write_text(text((1, 1)))
        self.assertEqual(self.read(), [(1, 1)])
        self.assertEqual(self.log.read()[0]["seen"], first)


if __name__ == "__main__":
    unittest.main()
