"""One coordinator, and thousands of simulated workers."""

import json
from dataclasses import dataclass

from harness.ours import PATIENCE, Muster, url_of
from harness.processes import RunFailed, wait_for

# From the submit on, beside the time that training is measured.
LONGEST = 300


@dataclass(frozen=True)
class Crowd:
    """Simulated nodes with workers on them."""

    nodes: int
    slots: int
    # Workers' streams that share an HTTP/2 connection.
    streams: int
    # So long training is measured, and so many workers die after it.
    seconds: int
    deaths: int
    size: str = "tiny"

    @property
    def workers(self):
        return self.nodes * self.slots

    def __str__(self):
        return f"{self.workers:,} workers on {self.nodes:,} nodes, {self.streams} streams a connection"


class Scale(Muster):
    """A real coordinator; `muster-load` plays nodes and workers."""

    def settings(self, crowd, steps):
        keys = {
            "data.path": self.bench.dataset,
            "train.steps": steps,
            "train.global_batch": crowd.workers,
            "train.micro_batch": 1,
            # One may die, and the others go on.
            "workers.min": crowd.workers - 1,
            "workers.max": crowd.workers,
            "model.layers": 2,
            "model.heads": 2,
            "model.hidden_size": 64,
            "model.context_length": 64,
        }
        return [argument for key, value in keys.items() for argument in ("--set", f"{key}={value}")]

    def scale(self, crowd):
        with self.processes() as processes:
            data = processes.directory / "data"
            start = [self.bench.muster, "coordinator", "--listen=127.0.0.1:0", f"--data-dir={data}"]
            coordinator = processes.start("coordinator", start)
            url = url_of(coordinator)
            play = [self.bench.load, f"--coordinator={url}", f"--pid={coordinator.pid}", f"--data-dir={data}"]
            play += [f"--nodes={crowd.nodes}", f"--slots={crowd.slots}", f"--streams={crowd.streams}"]
            play += [f"--seconds={crowd.seconds}", f"--deaths={crowd.deaths}"]
            load = processes.start("load", play)
            both = [coordinator, load]
            wait_for("the nodes were there", lambda: "nodes:" in load.log.read_text() or None, both, PATIENCE, 0.05)
            submit = [self.bench.muster, "submit", "bench/nano.toml", f"--coordinator={url}", *self.settings(crowd, 1_000_000)]
            self.bench.commands += [start, play, submit]
            if processes.start("submit", submit).wait(PATIENCE) != 0:
                raise RunFailed(f"muster submit failed: {(processes.directory / 'submit').read_text()[:200]}")
            try:
                status = load.wait(LONGEST + crowd.seconds)
            except Exception as late:
                raise RunFailed(f"muster-load did not end: {last(load)}") from late
            if status != 0:
                raise RunFailed(f"muster-load ended with status {status}: {last(load)}")
            return json.loads(last(load))


def last(process):
    """The last line of its output."""
    return (process.log.read_text().strip().splitlines() or [""])[-1]
