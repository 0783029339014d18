"""What is computed from what was observed. Nothing here touches a process or a file."""

import statistics


def rate(stamps, tokens_a_step, warmup):
    """Tokens a second: those of the steps after the first `warmup`, by the time between the ends of those steps.

    `stamps` are the times at which the steps were over. The time between two steps counts, whatever is done in it.
    """
    if warmup < 1 or len(stamps) <= warmup:
        raise ValueError("needs at least one step of warm-up, whose end is the beginning, and one step more")
    return tokens_a_step * (len(stamps) - warmup) / (stamps[-1] - stamps[warmup - 1])


def usual_step(stamps):
    """The median time from the end of one step to that of the next, in seconds."""
    return statistics.median(later - earlier for earlier, later in zip(stamps, stamps[1:]))


def muster_recovery(lines, world_of, world, killed_at):
    """None until a step was committed by `world` workers again.

    `lines` are those of the step log. A step that was in flight at the kill and got through all the same belongs to the
    old generation, and is not counted as the next one. `world_of` gives a generation's world size.
    """
    generation = max(line["generation"] for line in lines if line["seen"] <= killed_at)
    after = [line for line in lines if line["generation"] > generation]
    full = next((line for line in after if world_of(line["generation"]) >= world), None)
    if full is None:
        return None
    reached = max(line["step"] for line in lines if line["generation"] <= generation)
    return {
        "next_step_s": after[0]["seen"] - killed_at,
        "full_s": full["seen"] - killed_at,
        "redone": reached + 1 - after[0]["step"],
        "alone": sum(1 for line in after if line["step"] < full["step"]),
    }


def steps_alone(lines, world_of, world, killed_at):
    """The median time of a step that fewer workers made after the kill; None where there were not two of them in a row."""
    after = [line for line in lines if line["seen"] > killed_at and world_of(line["generation"]) < world]
    pairs = [(a, b) for a, b in zip(after, after[1:]) if a["generation"] == b["generation"] and b["step"] == a["step"] + 1]
    return statistics.median(b["seen"] - a["seen"] for a, b in pairs) if pairs else None


# Steps at the beginning of a generation that say nothing of the usual pace.
SETTLING = 10


def undisturbed(lines, world_of, world, kills):
    """Seconds a step in each stretch of steps that `world` workers made undisturbed: from the first steps of a generation to
    the next kill. Those of the generation that a kill ended count up to it."""
    paces = []
    for generation in dict.fromkeys(line["generation"] for line in lines):
        if world_of(generation) != world:
            continue
        mine = [line for line in lines if line["generation"] == generation]
        until = min((kill for kill in kills if kill > mine[0]["seen"]), default=float("inf"))
        mine = [line for line in mine[SETTLING:] if line["seen"] < until]
        if mine and mine[-1]["seen"] > mine[0]["seen"]:
            paces.append((mine[-1]["seen"] - mine[0]["seen"]) / (mine[-1]["step"] - mine[0]["step"]))
    return paces


def goodput(lines, world_of, world, kills):
    """Useful time over wall time, both from the first committed step to the last.

    Useful time is what the committed steps take undisturbed: their number times the median of `undisturbed`. A step that was
    lost and done again is one step.
    """
    paces = undisturbed(lines, world_of, world, kills)
    if not paces:
        raise ValueError("no stretch of steps was left undisturbed")
    first, last = lines[0], max(lines, key=lambda line: line["step"])
    steps, wall = last["step"] - first["step"], last["seen"] - first["seen"]
    step_s = statistics.median(paces)
    return {
        "goodput": steps * step_s / wall,
        "steps": steps,
        "wall_s": wall,
        "undisturbed_step_s": step_s,
        "fastest_step_s": min(paces),
        "slowest_step_s": max(paces),
        "stretches": len(paces),
    }


def torchrun_recovery(events, killed_at):
    """None until the restarted processes were past the step that the killed ones had reached."""
    steps = [event for event in events if event["event"] == "step"]
    reached = max(event["step"] for event in steps if event["restarts"] == 0)
    after = [event for event in steps if event["restarts"] > 0]
    past = min((event["at"] for event in after if event["step"] > reached), default=None)
    if past is None:
        return None
    following = min(after, key=lambda event: event["at"])
    return {
        "next_step_s": following["at"] - killed_at,
        "full_s": past - killed_at,
        "redone": reached + 1 - following["step"],
        "alone": 0,
    }


def torchft_recovery(survivor, replacement, world, killed_at):
    """None until the replacement committed a step, and the survivor one in a world that is full again.

    The survivor's first committed step after the kill counts as its next, even where it was in flight at the kill.
    """
    steps = [event for event in survivor if event["event"] == "step"]
    after = [event for event in steps if event["at"] > killed_at]
    committed = [event for event in after if event["committed"]]
    back = next((event["at"] for event in replacement if event["event"] == "started"), None)
    joined = any(event["event"] == "step" and event["committed"] for event in replacement)
    if back is None or not joined:
        return None
    full = next((event for event in committed if event["world"] >= world and event["at"] > back), None)
    if full is None:
        return None
    reached = max(event["step"] for event in steps if event["at"] <= killed_at and event["committed"])
    return {
        "next_step_s": committed[0]["at"] - killed_at,
        "full_s": full["at"] - killed_at,
        "redone": reached - committed[0]["before"],
        "alone": sum(1 for event in committed if event["at"] < full["at"] and event["world"] < world),
        "not_committed": sum(1 for event in after if not event["committed"] and event["at"] < full["at"]),
    }
