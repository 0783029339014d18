"""The arithmetic and the shape of the page."""

import unittest

from harness import report


def row(figure, side, number, figures, error=None, case="2 ranks × 1 thread, fp32"):
    return {
        "figure": figure,
        "case": case,
        "round": number,
        "side": side,
        "figures": figures,
        "error": error,
        "at": "2026-01-01 00:00:00 UTC",
        "load_before": 1.0,
        "others_during": 0.1 + number,
        "commands": [f"{side} {figure} {number}"],
        "commit": "abc",
        "muster": "muster 0.1.0",
        "peers": "torch 2.11.0",
        "hardware": {"cpu": "a CPU", "cores": 2, "memory_gib": 8.0, "kernel": "6"},
    }


def speed(side, number, tokens, parameters=7):
    figures = {"tokens_per_second": tokens, "loss": 5.0, "parameters": parameters}
    return row("throughput", side, number, figures)


class Arithmetic(unittest.TestCase):
    def test_a_summary_has_median_least_and_largest(self):
        self.assertEqual(report.summary([3, 1, 2]), {"median": 2, "least": 1, "largest": 3, "count": 3})
        self.assertIsNone(report.summary([]))

    def test_a_ratio_is_of_medians(self):
        self.assertEqual(report.ratio([10, 30, 20], [5, 100, 10]), 2.0)

    def test_rounds_are_paired_where_both_sides_got_through(self):
        rows = [speed("muster", 0, 200), speed("torchrun", 0, 100), speed("muster", 1, 300)]
        rows.append(row("throughput", "torchrun", 1, None, "hung"))
        rows += [speed("torchrun", 2, 100), speed("muster", 2, 90)]
        self.assertEqual(report.paired(rows, "tokens_per_second"), [2.0, 0.9])


class Page(unittest.TestCase):
    def test_shows_ratio_and_spread_of_both_sides(self):
        page = report.render(
            [
                speed(side, number, tokens + number)
                for number in range(3)
                for side, tokens in (("muster", 1200), ("torchrun", 999))
            ]
        )
        self.assertIn("| 1,201 (1,200–1,202) | 1,000 (999–1,001) | **1.201** |", page)
        self.assertIn("7 parameters, the same on both sides", page)
        self.assertIn("above 0.3 in 4 of 6 runs", page)

    def test_warns_where_the_machine_was_not_quiet(self):
        quiet, loud = speed("muster", 0, 1), speed("torchrun", 1, 1)
        self.assertNotIn("not quiet", report.render([quiet] * 9 + [loud]))
        self.assertIn("not quiet", report.render([quiet] * 8 + [loud] * 2))

    def test_says_when_the_models_differ(self):
        page = report.render([speed("muster", 0, 1), speed("torchrun", 0, 1, parameters=8)])
        self.assertIn("7 / 8 parameters", page)
        self.assertNotIn("the same on both sides", page)

    def test_a_failed_run_is_counted_and_named(self):
        start = {"first_step_s": 1.5, "stages": {"submit": 0.25}}
        page = report.render([row("startup", "muster", 0, start), row("startup", "torchrun", 0, None, "hung | stuck")])
        self.assertIn("| torchrun + DDP | – | – | 0 | 1 |", page)
        self.assertIn("hung \\| stuck", page)
        self.assertIn("| `submit` | 0.250 (0.250–0.250) |", page)

    def test_many_kills_of_one_run_stand_beside_one_of_each_run(self):
        ours = [{"next_step_s": 0.1 * n, "usual_step_s": 0.05, "full_s": 0.5, "redone": 0, "restarted": 0} for n in (1, 2, 3)]
        theirs = {"next_step_s": 2.0, "usual_step_s": 0.05, "full_s": 2.5, "redone": 5}
        page = report.render(
            [row("kills", "muster", 0, {"kills": ours})] + [row("kills", "torchft", number, theirs) for number in range(2)]
        )
        self.assertIn("| Muster | 3 | 0.150 / 0.250 / 0.250 | – | 0.500 / 0.500 / 0.500 |  | 0 | 0 |", page)
        self.assertIn("| 2 | 1.950 / 1.950 / 1.950 | – | 2.500 / 2.500 / 2.500 | **0.100**, **0.200** | 5 | – |", page)

    def test_a_comparison_costs_what_steps_take_longer_with_it(self):
        speed = lambda side, number, step_ms: row("replicas", side, number, {"tokens_per_second": 1024 / step_ms * 1000})
        rows = [speed("muster", number, 100.0 + number) for number in range(3)]
        rows += [speed("muster-comparing", number, 111.0) for number in range(3)]
        for one in rows:
            one["config"] = {"workers": 2, "slots": 1, "micro_batch": 2, "context": 256}
        page = report.render(rows)
        self.assertIn("| 101.0 (100.0–102.0) | 111.0 (111.0–111.0) | 10.0 | **0.0099%** |", page)

    def test_of_fifty_the_98th_percentile_is_the_49th(self):
        self.assertEqual(report.percentiles([float(n) for n in range(1, 51)]), "25.500 / 49.000 / 50.000")

    def test_says_what_was_measured_of_which_code(self):
        old, new = speed("muster", 0, 1), row("submit", "muster", 0, None, "hung")
        new["commit"] = "def"
        page = report.render([old, new])
        self.assertIn("| throughput | 2026-01-01 00:00:00 UTC to 2026-01-01 00:00:00 UTC; 2 cores of a CPU; commit abc;", page)
        self.assertIn("| submit | 2026-01-01 00:00:00 UTC to 2026-01-01 00:00:00 UTC; 2 cores of a CPU; commit def;", page)
    def test_shows_goodput_and_what_it_is_made_of(self):
        found = {"goodput": 0.98765, "steps": 61000, "wall_s": 1200.0, "undisturbed_step_s": 0.0191, "kills": 20}
        found |= {"fastest_step_s": 0.018, "slowest_step_s": 0.02, "stretches": 21, "seed": 1, "every_s": 60}
        page = report.render([row("goodput", "muster", 0, found), row("goodput", "muster", 1, None, "hung")])
        self.assertIn("| 20, one each 60 s, seed 1 | **98.77 %** | 61,000 | 1200.0 | 19.10 (18.00–20.00), 21 stretches |", page)

    def test_shows_what_many_workers_cost(self):
        lost = [{"survivors_formed_s": value, "all_formed_s": 2 * value, "all_training_s": 3 * value} for value in (0.5, 0.7)]
        names = ("attaching_s", "forming_s", "training_s", "messages_per_second", "cores", "own_cores", "memory_mib")
        names += ("largest_mib", "summary_median_ms", "summary_p99_ms", "summary_largest_ms", "full_status_ms")
        found = {name: 1.5 for name in (*names, "journal_bytes_per_second")}
        found |= {"connections": 100, "streams": 100, "seconds": 60, "summaries": 600, "lost": lost}
        page = report.render([row("scale", "muster", 0, found, case="10,000 workers")])
        self.assertIn("10,000 workers; 2 cores for both:", page)
        self.assertIn("| a worker's death to the last survivor's `Form`, s | 0.60 (0.50–0.70) |", page)
        self.assertIn("1.50 / **1.50** / 1.50 of 600", page)
        found["lost"] = []
        self.assertNotIn("death", report.render([row("scale", "muster", 0, found)]))

    def test_names_one_command_of_each_kind(self):
        page = report.render([speed(side, number, 1) for number in range(2) for side in ("muster", "torchrun")])
        self.assertIn("muster throughput 0\ntorchrun throughput 0\n```", page)
        self.assertNotIn("throughput 1", page)


if __name__ == "__main__":
    unittest.main()
