"""bench/RESULTS.md out of the lines of a results file."""

import math
import statistics
from collections import defaultdict

# Others' use of the machine above which a run counts as disturbed, in cores.
DISTURBED = 0.3
# The share of disturbed runs that the medians can bear.
TOLERATED = 0.1
SIDES = {
    "muster": "Muster",
    "muster-canonical": "Muster, canonical reduction",
    "muster-comparing": "Muster, replicas compared after each step",
    "torchrun": "torchrun + DDP",
    "torchft": "torchft, its own timeouts",
    "torchft-short": "torchft, short timeouts",
}
STAGES = {
    "startup": "Where Muster's time to the first step goes",
    "submit": "Stages",
    "recovery": "Where Muster's time to the next step goes",
}


def summary(values):
    """Median, least, largest, and how many; None where there are none."""
    values = list(values)
    if not values:
        return None
    return {"median": statistics.median(values), "least": min(values), "largest": max(values), "count": len(values)}


def ratio(ours, peers):
    """Ours to the peer's, by medians."""
    return statistics.median(ours) / statistics.median(peers)


def paired(rows, name):
    """The ratio of each round that both sides got through, in order of rounds: the machine's slow drift cancels there."""
    rounds = defaultdict(dict)
    for row in rows:
        if row["error"] is None:
            rounds[row["round"]][row["side"] == "muster"] = row["figures"][name]
    return [both[True] / both[False] for _, both in sorted(rounds.items()) if len(both) == 2]


def values(rows, side, name):
    return [row["figures"][name] for row in rows if row["side"] == side and row["error"] is None]


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def spread(found, digits):
    """As `median (least–largest)`."""
    if found is None:
        return "–"
    show = lambda value: f"{value:,.{digits}f}"
    return f"{show(found['median'])} ({show(found['least'])}–{show(found['largest'])})"


def render(rows):
    """The whole page."""
    lines = ["# First figures", ""]
    lines += [
        "Made by `bench/run --render` from the results files beside it, in which each line is one run. Every"
        " cell is a median, with least and largest in brackets. [README.md](README.md) says what is measured and how.",
        "",
    ]
    lines += about(rows)
    by_figure = defaultdict(list)
    for row in rows:
        by_figure[row["figure"]].append(row)
    for figure, section in SECTIONS:
        if by_figure[figure]:
            lines += section(by_figure[figure])
    lines += failures(rows)
    lines += [
        "## To repeat it",
        "",
        "```",
        "make bench          # all of it, about 75 minutes on a quiet machine",
        "make bench QUICK=1  # every part, few rounds; leaves this page alone",
        "bench/run --only recovery --rounds 3",
        "```",
        "",
        "One command of each kind, as it was run:",
        "",
        "```",
    ]
    return "\n".join([*lines, *one_of_each(rows), "```", ""])


def one_of_each(rows):
    """The first command of each program, side and figure."""
    found = {}
    for row in rows:
        for command in row["commands"]:
            found.setdefault((row["figure"], row["side"], command.split()[0]), command)
    return dict.fromkeys(found.values())


def about(rows):
    first, hardware = rows[0], rows[0]["hardware"]
    counted = {
        (row["side"], row["figures"]["parameters"]) for row in rows if row["figures"] and "parameters" in row["figures"]
    }
    counts = sorted({count for _, count in counted})
    disturbed = sum(1 for row in rows if row["others_during"] > DISTURBED)
    facts = [
        *measured(rows),
        ("peers", first["peers"]),
        ("system", f"{hardware['memory_gib']} GiB, Linux {hardware['kernel']}, no GPU used"),
        (
            "model",
            f"{' / '.join(f'{count:,}' for count in counts) or '–'} parameters"
            + (", the same on both sides" if len(counts) == 1 < len(counted) else ""),
        ),
        (
            "load before a run (1 min average)",
            spread(summary(row["load_before"] for row in rows), 2) + "; most of it is the run before",
        ),
        (
            "used by others during a run, in cores",
            spread(summary(row["others_during"] for row in rows), 2)
            + f"; above {DISTURBED} in {disturbed} of {len(rows)} runs",
        ),
    ]
    lines = table(("", ""), facts)
    if disturbed > len(rows) * TOLERATED:
        lines += ["**The machine was not quiet: these figures show that the benchmarks work, no more.**", ""]
    return lines


def measured(rows):
    """When, of what and where: for each state of the code and machine, the figures that were measured there."""
    groups = defaultdict(list)
    for row in rows:
        hardware = row["hardware"]
        machine = f"{hardware['cores']} cores of {hardware['cpu']}"
        groups[row["commit"], row["muster"], machine].append(row)
    for (commit, muster, machine), mine in groups.items():
        figures = ", ".join(dict.fromkeys(row["figure"] for row in mine))
        yield figures, f"{mine[0]['at']} to {mine[-1]['at']}; {machine}; commit {commit}; binaries say: {muster}"


def throughput(rows):
    lines = ["## Worker tokens a second", ""]
    body = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        ours, peers = values(mine, "muster", "tokens_per_second"), values(mine, "torchrun", "tokens_per_second")
        by_round = paired(mine, "tokens_per_second")
        body.append(
            (
                case,
                spread(summary(ours), 0),
                spread(summary(peers), 0),
                f"**{ratio(ours, peers):.3f}**" if ours and peers else "–",
                f"{min(by_round):.3f}–{max(by_round):.3f}" if by_round else "–",
                " / ".join(spread(summary(values(mine, side, "loss")), 2) for side in ("muster", "torchrun")),
                f"{len(ours)} / {len(peers)}",
            )
        )
    return lines + table(
        (
            "case",
            SIDES["muster"],
            SIDES["torchrun"],
            "ratio of medians",
            "ratios of the rounds",
            "loss at the end, of both",
            "runs",
        ),
        body,
    )


def startup(rows):
    return (
        ["## Command to first committed step", ""]
        + compare(rows, (("first_step_s", "first step, s"),))
        + stages(rows, "startup")
    )


def recovery(rows):
    columns = (
        ("next_step_s", "next step, s"),
        ("full_s", "all workers again and no step behind, s"),
        ("usual_step_s", "usual step, s"),
        ("redone", "steps redone"),
        ("alone", "steps with fewer workers"),
    )
    return ["## SIGKILL of a worker to the next committed step", ""] + compare(rows, columns) + stages(rows, "recovery")


def submit(rows):
    columns = (("acknowledged_s", "acknowledged, s"), ("running_s", "training, s"), ("first_step_s", "first step, s"))
    return ["## Submit to running", ""] + compare(rows, columns) + stages(rows, "submit")


def compare(rows, columns):
    """A line a side; the ratio is of the first column, Muster to that side."""
    ours = values(rows, "muster", columns[0][0])
    body = []
    for side in dict.fromkeys(row["side"] for row in rows):
        first = values(rows, side, columns[0][0])
        failed = sum(1 for row in rows if row["side"] == side and row["error"] is not None)
        cells = [spread(summary(values(rows, side, name)), 0 if name in ("redone", "alone") else 2) for name, _ in columns]
        body.append(
            (
                SIDES[side],
                *cells,
                "" if side == "muster" else f"**{ratio(ours, first):.3f}**" if ours and first else "–",
                len(first),
                failed,
            )
        )
    header = ("", *(title for _, title in columns), "Muster to this", "runs", "failed")
    return table(header, body)


def stages(rows, figure):
    found = defaultdict(list)
    for row in rows:
        if row["side"] == "muster" and row["error"] is None:
            for name, seconds in row["figures"]["stages"].items():
                found[name].append(seconds)
    if not found:
        return []
    ordered = sorted(found.items(), key=lambda item: statistics.median(item[1]))
    return [f"{STAGES[figure]}, seconds until the coordinator's event:", ""] + table(
        ("event", "s"), [(f"`{name}`", spread(summary(seconds), 3)) for name, seconds in ordered]
    )


def kills(rows):
    """Distributions: one run of many kills on our side, a run a kill on the others'."""
    lines = ["## One worker killed after the other", ""]
    lines += [
        "From SIGKILL to the next committed step, less one usual step; and to a full world. Percentiles over the kills.",
        "",
    ]
    body = []
    for case in dict.fromkeys(row["case"] for row in rows):
        for side in dict.fromkeys(row["side"] for row in rows):
            found = mine_of(rows, case, side)
            if not found:
                continue
            lost = sorted(kill["next_step_s"] - kill["usual_step_s"] for kill in found)
            alone = sorted(
                kill["next_step_s"] - kill["alone_step_s"] for kill in found if kill.get("alone_step_s") is not None
            )
            full = sorted(kill["full_s"] for kill in found)
            body.append(
                (
                    case,
                    SIDES[side],
                    len(found),
                    percentiles(lost),
                    percentiles(alone),
                    percentiles(full),
                    to_this(mine_of(rows, case, "muster"), found) if side != "muster" else "",
                    max(kill["redone"] for kill in found),
                    sum(kill.get("restarted", 0) for kill in found) if side == "muster" else "–",
                )
            )
    header = (
        "case",
        "",
        "kills",
        "next step less a usual one, s: median / 98 % / largest",
        "less a step of those left, s",
        "full world, s",
        "Muster to this: next step, full world",
        "steps redone, at most",
        "survivors restarted",
    )
    return lines + table(header, body)


def mine_of(rows, case, side):
    """All kills of a side in a case, whether a run had one or many."""
    figures = [row["figures"] for row in rows if row["case"] == case and row["side"] == side and row["error"] is None]
    return [kill for one in figures for kill in one.get("kills", [one])]


def to_this(ours, peers):
    """Ratios of medians of what a kill costs; whole times, since what is left of a peer's after a usual step may be nothing."""
    if not ours:
        return "–"
    of = lambda name: ratio([kill[name] for kill in ours], [kill[name] for kill in peers])
    return f"**{of('next_step_s'):.3f}**, **{of('full_s'):.3f}**"


def percentiles(found):
    """As `median / 98 % / largest` of sorted values."""
    if not found:
        return "–"
    # The smallest that so many are not above: of 50 the 49th.
    at = lambda share: found[math.ceil(share * len(found)) - 1]
    return f"{statistics.median(found):.3f} / {at(0.98):.3f} / {found[-1]:.3f}"


def canonical(rows):
    lines = ["## What canonical reduction costs", ""]
    body = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        fast, exact = (values(mine, side, "tokens_per_second") for side in ("muster", "muster-canonical"))
        by_round = [1 / ratio for ratio in paired(mine, "tokens_per_second")]
        body.append(
            (
                case,
                spread(summary(fast), 0),
                spread(summary(exact), 0),
                f"**{ratio(exact, fast):.3f}**" if fast and exact else "–",
                f"{min(by_round):.3f}–{max(by_round):.3f}" if by_round else "–",
            )
        )
    header = ("case", "fast, tokens/s", "canonical, tokens/s", "canonical to fast", "ratios of the rounds")
    return lines + table(header, body)


# As `guard.compare_every_steps` is where nobody sets it.
COMPARED_EVERY = 1000


def replicas(rows):
    lines = ["## What comparing replicas costs", ""]
    body = []
    for case in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == case]
        # By the clock, since what is compared is compared between two steps.
        config = mine[0]["config"]
        tokens = config["workers"] * config["slots"] * config["micro_batch"] * config["context"]
        without, each = (
            [1000 * tokens / rate for rate in values(mine, side, "tokens_per_second")] for side in ("muster", "muster-comparing")
        )
        if not without or not each:
            continue
        step, cost = statistics.median(without), statistics.median(each) - statistics.median(without)
        share = cost / (COMPARED_EVERY * step)
        body.append((case, spread(summary(without), 1), spread(summary(each), 1), f"{cost:.1f}", f"**{share:.4%}**"))
    header = ("case", "step, ms", "step with a comparison, ms", "a comparison, ms", f"of all time, one in {COMPARED_EVERY} steps")
    return lines + table(header, body)


def goodput(rows):
    lines = ["## Goodput while workers are killed", ""]
    lines += [
        "Useful time over wall time, both from the first committed step to the last. Useful time is the number of committed"
        " steps times the undisturbed time of a step: the median over the stretches that all workers trained between a recovery"
        " and the next kill, in the same run.",
        "",
    ]
    body = []
    for row in done(rows):
        found = row["figures"]
        body.append(
            (
                row["case"],
                f"{found['kills']}, one each {found['every_s']} s, seed {found['seed']}",
                f"**{found['goodput'] * 100:.2f} %**",
                f"{found['steps']:,}",
                f"{found['wall_s']:.1f}",
                f"{found['undisturbed_step_s'] * 1000:.2f} ({found['fastest_step_s'] * 1000:.2f}–"
                f"{found['slowest_step_s'] * 1000:.2f}), {found['stretches']} stretches",
            )
        )
    header = ("case", "kills", "goodput", "committed steps", "wall time, s", "undisturbed step, ms")
    return lines + table(header, body)


def scale(rows):
    lines = ["## One coordinator, many workers", ""]
    lines += [
        "The coordinator is real; the workers are simulated by one other process, which speaks the real protocol to it and shares"
        " the machine's cores with it. Each worker reports once a second. Summaries of the job's status are asked for ten times a"
        " second meanwhile, on a connection of their own.",
        "",
    ]
    for row in done(rows):
        found = row["figures"]
        facts = [
            ("connections", f"{found['connections']}, of up to {found['streams']} workers each; agents share them"),
            ("from the submit to the last worker's attach, s", f"{found['attaching_s']:.2f}"),
            ("the last worker is warm to the last one's `Form`, s", f"**{found['forming_s']:.3f}**"),
            ("… to all workers at work, s", f"{found['training_s']:.3f}"),
            ("workers' messages a second", f"{found['messages_per_second']:,.0f} for {found['seconds']} s"),
            ("CPU of the coordinator / of the simulated workers, cores", f"**{found['cores']:.2f}** / {found['own_cores']:.2f}"),
            ("memory of the coordinator, MiB", f"{found['memory_mib']:.0f}, at most {found['largest_mib']:.0f}"),
            (
                "a status summary, ms: median / 99 % / largest",
                f"{found['summary_median_ms']:.2f} / **{found['summary_p99_ms']:.2f}** / {found['summary_largest_ms']:.2f}"
                f" of {found['summaries']}",
            ),
            ("the whole status, with each worker, ms", f"{found['full_status_ms']:.1f}"),
            ("growth of the journal, bytes a second", f"{found['journal_bytes_per_second']:,.0f}"),
        ]
        deaths = (
            ("a worker's death to the last survivor's `Form`, s", "survivors_formed_s"),
            ("… to the last `Form` with its replacement, s", "all_formed_s"),
            ("… to all workers at work, s", "all_training_s"),
        )
        if found["lost"]:
            facts += [(title, spread(summary(lost[name] for lost in found["lost"]), 2)) for title, name in deaths]
        lines += [f"{row['case']}; {row['hardware']['cores']} cores for both:", ""] + table(("", ""), facts)
    return lines


def done(rows):
    return [row for row in rows if row["error"] is None]


SECTIONS = (
    ("throughput", throughput),
    ("startup", startup),
    ("recovery", recovery),
    ("submit", submit),
    ("kills", kills),
    ("canonical", canonical),
    ("replicas", replicas),
    ("goodput", goodput),
    ("scale", scale),
)


def failures(rows):
    failed = [row for row in rows if row["error"] is not None]
    if not failed:
        return []
    return ["## Runs that gave no figure", ""] + table(
        ("figure", "side", "case", "round", "why"),
        [(row["figure"], SIDES[row["side"]], row["case"], row["round"], row["error"].replace("|", "\\|")) for row in failed],
    )
