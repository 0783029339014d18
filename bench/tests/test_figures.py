"""What is computed from what was observed: `python3 -m unittest discover -s bench -t bench`."""

import unittest

from harness import figures


def line(step, generation, seen):
    return {"step": step, "generation": generation, "seen": seen}


def trained(step, at, restarts=0):
    return {"event": "step", "step": step, "at": at, "restarts": restarts}


def tried(step, at, world=2, committed=True):
    return {"event": "step", "step": step, "before": step - committed, "at": at, "world": world, "committed": committed}


class Rate(unittest.TestCase):
    def test_counts_the_steps_after_the_warmup_by_the_time_between_their_ends(self):
        # The slow first step is left out: 3 steps of 100 tokens in 6 s.
        self.assertEqual(figures.rate([50.0, 52.0, 54.0, 56.0], 100, 1), 50.0)
        self.assertEqual(figures.rate([50.0, 51.0, 54.0, 57.0], 100, 2), 100 * 2 / 6)

    def test_refuses_what_has_no_beginning_or_no_step(self):
        for stamps, warmup in (([1.0, 2.0], 0), ([1.0, 2.0], 2), ([], 1)):
            with self.assertRaises(ValueError):
                figures.rate(stamps, 1, warmup)

    def test_the_usual_step_is_a_median(self):
        self.assertEqual(figures.usual_step([0.0, 1.0, 2.0, 9.0]), 1.0)


class Goodput(unittest.TestCase):
    WORLDS = {1: 2, 2: 1, 3: 2}

    def lines(self):
        # A step a second of two workers; at 30 one is killed, the other makes a step in two seconds; from 40 on, two again.
        first = [line(step, 1, float(step)) for step in range(1, 31)]
        alone = [line(31, 2, 34.0), line(32, 2, 36.0)]
        return [*first, *alone, *(line(33 + step, 3, 40.0 + step) for step in range(30))]

    def test_is_the_undisturbed_time_of_the_committed_steps_by_the_wall_time(self):
        found = figures.goodput(self.lines(), self.WORLDS.get, 2, [30.5])
        self.assertEqual((found["steps"], found["wall_s"], found["undisturbed_step_s"]), (61, 68.0, 1.0))
        self.assertEqual((found["goodput"], found["stretches"]), (61 / 68, 2))

    def test_a_stretch_ends_with_the_kill_and_begins_after_the_first_steps(self):
        # What was in flight at the kill and got through late says nothing of the pace.
        lines = [*self.lines()[:30], line(31, 1, 39.0)]
        self.assertEqual(figures.undisturbed(lines, self.WORLDS.get, 2, [30.5]), [1.0])
        self.assertEqual(figures.undisturbed(lines[: figures.SETTLING], self.WORLDS.get, 2, []), [])

    def test_refuses_where_nothing_was_undisturbed(self):
        with self.assertRaises(ValueError):
            figures.goodput(self.lines()[30:32], self.WORLDS.get, 2, [])


class MusterRecovery(unittest.TestCase):
    WORLDS = {1: 2, 2: 1, 3: 2}

    def recovery(self, lines):
        return figures.muster_recovery(lines, self.WORLDS.get, 2, 10.0)

    def test_waits_until_the_world_is_full_again(self):
        before = [line(1, 1, 8.0), line(2, 1, 9.0)]
        self.assertIsNone(self.recovery(before))
        self.assertIsNone(self.recovery([*before, line(3, 2, 11.0)]))

    def test_the_next_step_is_the_first_of_a_later_generation(self):
        # Step 3 was in flight at the kill and got through.
        lines = [line(2, 1, 9.0), line(3, 1, 10.5), line(4, 2, 11.0), line(5, 2, 12.0), line(6, 3, 13.0)]
        expected = {"next_step_s": 1.0, "full_s": 3.0, "redone": 0, "alone": 2}
        self.assertEqual(self.recovery(lines), expected)

    def test_a_step_that_only_the_dead_had_committed_is_redone(self):
        lines = [line(2, 1, 9.0), line(3, 1, 9.5), line(3, 3, 11.0)]
        self.assertEqual(self.recovery(lines)["redone"], 1)


class TorchrunRecovery(unittest.TestCase):
    def test_is_over_when_the_steps_that_were_lost_are_redone(self):
        events = [{"event": "started", "at": 1.0}, trained(14, 8.0), trained(15, 9.0), trained(15, 9.1)]
        again = [trained(11, 14.0, 1), trained(11, 14.1, 1), trained(15, 18.0, 1)]
        self.assertIsNone(figures.torchrun_recovery(events + again, 10.0))
        found = figures.torchrun_recovery([*events, *again, trained(16, 19.0, 1)], 10.0)
        self.assertEqual(found, {"next_step_s": 4.0, "full_s": 9.0, "redone": 5, "alone": 0})


class TorchftRecovery(unittest.TestCase):
    def test_waits_for_the_replacement_and_counts_what_was_done_alone(self):
        survivor = [tried(5, 9.0), tried(5, 11.0, committed=False), tried(6, 12.0, 1), tried(7, 13.0, 1)]
        replacement = [{"event": "started", "at": 11.5}]
        self.assertIsNone(figures.torchft_recovery(survivor, replacement, 2, 10.0))
        survivor.append(tried(8, 14.0))
        self.assertIsNone(figures.torchft_recovery(survivor, replacement, 2, 10.0))
        found = figures.torchft_recovery(survivor, [*replacement, tried(8, 14.0)], 2, 10.0)
        self.assertEqual(found, {"next_step_s": 2.0, "full_s": 4.0, "redone": 0, "alone": 2, "not_committed": 1})

    def test_a_step_with_the_old_world_is_not_a_full_world(self):
        survivor = [tried(5, 9.0), tried(6, 10.2), tried(7, 12.0, 1), tried(8, 14.0)]
        found = figures.torchft_recovery(survivor, [{"event": "started", "at": 11.0}, tried(8, 14.0)], 2, 10.0)
        self.assertEqual((round(found["next_step_s"], 6), found["full_s"]), (0.2, 4.0))


if __name__ == "__main__":
    unittest.main()
