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
