"""How much of the time a run gets on, while workers are killed all along."""

import json
import os
import random
import signal
import time

from harness import figures
from harness.ours import HANGS_AFTER, PATIENCE, Muster, interrupt, url_of
from harness.processes import RunFailed, enough, last_words, wait_for

# Between two looks at the step log.
PAUSE = 0.02


class Steps:
    """The lines of a growing step log, each with the time at which it was first seen. Only what is new is read, unless lines
    of a discarded branch were cut off."""

    def __init__(self, path):
        self.path, self.offset, self.seen, self.lines = path, 0, {}, []

    def read(self):
        """The lines of the one line of history so far."""
        try:
            size = os.stat(self.path).st_size
        except FileNotFoundError:
            return self.lines
        if size < self.offset:
            self.offset, self.lines = 0, []
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        now = time.time()
        for line in map(json.loads, whole.splitlines()):
            key = (line["generation"], line["step"])
            self.lines.append({"generation": key[0], "step": key[1], "seen": self.seen.setdefault(key, now)})
        self.offset += len(whole)
        return self.lines


class Goodput(Muster):
    """`muster run`, of which a worker is killed every so often."""

    def goodput(self, case, minutes, every_s, seed):
        with self.processes() as processes:
            process, _ = self.run(processes, case, 10_000_000)
            log = Steps(processes.directory / "run/metrics.jsonl")
            url = url_of(process)
            worlds = {}

            def world_of(generation):
                if generation not in worlds:
                    formed = (event for event in self.events(url) if event["kind"] == "generation_formed")
                    worlds.update((event["generation"], event["world_size"]) for event in formed)
                return worlds[generation]

            wait_for("a first step", lambda: enough(log.read(), 1), [process], PATIENCE, PAUSE)
            chance, begun = random.Random(seed), log.lines[0]["seen"]
            end, kills, next_kill = begun + minutes * 60, [], begun + every_s / 2
            quiet_since, known = time.time(), 0
            while time.time() < end:
                lines = log.read()
                if len(lines) != known:
                    quiet_since, known = time.time(), len(lines)
                if process.poll() is not None:
                    raise RunFailed(f"muster run ended with status {process.returncode}: {last_words(process.log)}")
                if time.time() - quiet_since > HANGS_AFTER:
                    raise RunFailed(f"hung: {HANGS_AFTER} s passed without a step")
                if time.time() >= next_kill:
                    pid = chance.choice(sorted(self.members(url).values()))
                    kills.append(time.time())
                    os.kill(pid, signal.SIGKILL)
                    next_kill += every_s
                time.sleep(PAUSE)
            # While the coordinator is there to be asked.
            found = figures.goodput(log.read(), world_of, case.workers, kills)
            interrupt(process)
            return {**found, "kills": len(kills), "seed": seed, "every_s": every_s}
