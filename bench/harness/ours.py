"""Muster's side of each figure."""

import json
import math
import os
import re
import signal
import statistics
import subprocess
import time
from datetime import datetime

from harness import figures
from harness.processes import JsonLines, Processes, RunFailed, enough, environment, wait_for

# Longer than any start takes, even on a busy machine.
PATIENCE = 120
# A recovery that takes longer than this hangs.
HANGS_AFTER = 60


# What `peers` call by the same names; `nano` is what nano.toml says.
SIZES = {
    "nano": {},
    "tiny": {"model.layers": 2, "model.heads": 2, "model.hidden_size": 64, "model.context_length": 64},
}


class Muster:
    """`bench` gives root, scratch directory, dataset and binaries."""

    def __init__(self, bench, name="muster", more=()):
        self.bench, self.name, self.more = bench, name, dict(more)

    def settings(self, case, steps):
        """The settings of a case, as arguments."""
        keys = {
            "data.path": self.bench.dataset,
            "train.steps": steps,
            "train.global_batch": case.global_batch,
            "train.micro_batch": case.micro_batch,
            "train.dtype": case.dtype,
            "workers.max": case.workers,
            "workers.threads": case.threads,
            **SIZES[case.size],
            **self.more,
        }
        return [argument for key, value in keys.items() for argument in ("--set", f"{key}={value}")]

    def run(self, processes, case, steps):
        """Starts `muster run`; gives the process and its step log."""
        out = processes.directory / "run"
        where = (f"--workers={case.workers}", f"--out={out}")
        command = [self.bench.muster, "run", "bench/nano.toml", *where, *self.settings(case, steps)]
        self.bench.commands.append(command)
        process = processes.start("output", command)
        return process, step_log(out / "metrics.jsonl")

    def ask(self, url, command):
        arguments = [self.bench.muster, command, "--coordinator", url, "-o", "json"]
        done = subprocess.run(
            arguments, cwd=self.bench.root, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RunFailed(f"muster {command}: {done.stderr.strip()[:200]}")
        return done.stdout

    def events(self, url):
        return [json.loads(line) for line in self.ask(url, "events").splitlines()]

    def throughput(self, case, steps, warmup):
        with self.processes() as processes:
            process, log = self.run(processes, case, warmup + steps)
            wait_for(
                "the last step",
                lambda: enough(log.read(), warmup + steps),
                [process],
                PATIENCE + 10 * (warmup + steps),
                0.02,
            )
            if process.wait(PATIENCE) != 0:
                raise RunFailed(f"muster run ended with status {process.returncode}")
            lines = log.lines
            return {
                "tokens_per_second": figures.rate([line["seen"] for line in lines], lines[0]["tokens"], warmup),
                "step_ms": statistics.median(line["step_ms"] for line in lines[warmup:]),
                "loss": lines[-1]["loss"],
                "parameters": parameters(processes.directory / "run"),
            }

    def startup(self, case):
        with self.processes() as processes:
            begun = time.time()
            process, log = self.run(processes, case, 100_000)
            first = wait_for("the first step", lambda: next(iter(log.read()), None), [process], PATIENCE)
            stages = stages_of(self.events(url_of(process)), begun)
            interrupt(process)
            return {"first_step_s": first["seen"] - begun, "stages": stages}

    def submit(self, case):
        with self.processes() as processes:
            data = processes.directory / "data"
            listen = ("--listen=127.0.0.1:0", f"--data-dir={data}/coordinator")
            coordinator = processes.start("coordinator", [self.bench.muster, "coordinator", *listen])
            url = url_of(coordinator)
            offer = (f"--slots={case.workers}", "--name=bench", f"--data-dir={data}/agent")
            agent = processes.start("agent", [self.bench.muster, "agent", f"--coordinator={url}", *offer])
            both = [coordinator, agent]
            wait_for("the agent had joined", lambda: json.loads(self.ask(url, "nodes")) or None, both, PATIENCE, 0.1)
            time.sleep(1)
            to = (f"--coordinator={url}", "--output=json")
            command = [self.bench.muster, "submit", "bench/nano.toml", *to, *self.settings(case, 100_000)]
            self.bench.commands.append(command)
            begun = time.time()
            submit = processes.start("submit", command)
            if submit.wait(PATIENCE) != 0:
                raise RunFailed(f"muster submit ended with status {submit.returncode}")
            acknowledged = time.time() - begun
            job = json.loads(submit.log.read_text())["job_id"]
            log = step_log(data / "coordinator/jobs" / job / "metrics.jsonl")
            first = wait_for("the first step", lambda: next(iter(log.read()), None), both, PATIENCE)
            stages = stages_of(self.events(url), begun)
            return {
                "acknowledged_s": acknowledged,
                "running_s": stages["training"],
                "first_step_s": first["seen"] - begun,
                "stages": stages,
            }

    def recovery(self, case, phase):
        with self.processes() as processes:
            process, log = self.run(processes, case, 100_000)
            url = url_of(process)
            wait_for("it had trained", lambda: enough(log.read(), case.kill_after), [process], PATIENCE)
            ranks = {worker["rank"]: worker["pid"] for worker in json.loads(self.ask(url, "status"))["workers"]}
            stamps = [line["seen"] for line in log.lines]
            usual = figures.usual_step(stamps)
            killed_at = kill(ranks[case.workers - 1], log.lines[-1]["seen"], usual, phase)
            worlds = {}

            def world_of(generation):
                if generation not in worlds:
                    worlds.update(
                        (event["generation"], event["world_size"])
                        for event in self.events(url)
                        if event["kind"] == "generation_formed"
                    )
                return worlds[generation]

            found = wait_for(
                "its world was full again",
                lambda: figures.muster_recovery(log.read(), world_of, case.workers, killed_at),
                [process],
                HANGS_AFTER,
            )
            stages = stages_of([event for event in self.events(url) if instant(event) > killed_at], killed_at)
            interrupt(process)
            return {**found, "usual_step_s": usual, "stages": stages}

    def kills(self, case, count):
        """One run in which `count` workers are killed, one after the other, each when all are there again."""
        with self.processes() as processes:
            process, log = self.run(processes, case, 10_000_000)
            url = url_of(process)
            worlds, found = {}, []

            def world_of(generation):
                if generation not in worlds:
                    events = self.events(url)
                    formed = (event for event in events if event["kind"] == "generation_formed")
                    worlds.update((event["generation"], event["world_size"]) for event in formed)
                return worlds[generation]

            def settled():
                lines = log.read()[-case.kill_after :]
                full = len(lines) == case.kill_after and len({line["generation"] for line in lines}) == 1
                return (full and world_of(lines[-1]["generation"]) == case.workers) or None

            for number in range(count):
                wait_for("all were there again", settled, [process], HANGS_AFTER, 0.02)
                before = self.members(url)
                usual = figures.usual_step([line["seen"] for line in log.lines[-case.kill_after :]])
                victim = number % case.workers
                phase = (number + 0.5) / count
                killed_at = kill(before[victim], log.lines[-1]["seen"], usual, phase)
                one = wait_for(
                    "its world was full again",
                    lambda: figures.muster_recovery(log.read(), world_of, case.workers, killed_at),
                    [process],
                    HANGS_AFTER,
                    0.002,
                )
                after = self.members(url)
                survivors = {pid for rank, pid in before.items() if rank != victim}
                alone = figures.steps_alone(log.lines, world_of, case.workers, killed_at)
                found.append(
                    {
                        **one,
                        "rank": victim,
                        "usual_step_s": usual,
                        "alone_step_s": alone,
                        "restarted": len(survivors - set(after.values())),
                    }
                )
            interrupt(process)
            return {"kills": found}

    def members(self, url):
        """Process ids by rank."""
        workers = json.loads(self.ask(url, "status"))["workers"]
        return {worker["rank"]: worker["pid"] for worker in workers if worker.get("rank") is not None}

    def processes(self):
        return Processes(self.bench.root, self.bench.fresh_directory())


def kill(pid, last, usual, phase):
    """SIGKILL at a point of the step: `phase` is in [0, 1). Gives the time of the kill."""
    # The step may have gone by while the process id was asked for; a later one will do.
    point = last + usual * phase
    while point < time.time():
        point += usual
    time.sleep(point - time.time())
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    return at


def step_log(path):
    return JsonLines(path, key=lambda line: (line["generation"], line["step"]))


def url_of(process):
    return wait_for(
        "it said where it listens",
        lambda: next(iter(re.findall(r"http://127\.0\.0\.1:\d+", process.log.read_text())), None),
        [process],
        PATIENCE,
    )


def interrupt(process):
    """As a second Ctrl-C: at once, with all workers."""
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)


def instant(event):
    return datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()


def stages_of(events, begun):
    """Seconds from `begun` to the first event of each kind that says something about the way to a step."""
    stages = {}
    for event in events:
        name = event["state"] if event["kind"] == "state" else event["kind"]
        stages.setdefault(name, instant(event) - begun)
    wanted = (
        "submit",
        "worker_exit",
        "worker_start",
        "worker_attach",
        "generation_opened",
        "generation_formed",
        "training",
        "first_step",
    )
    return {name: stages[name] for name in wanted if name in stages}


def parameters(out):
    """Numbers in the model of the newest checkpoint."""
    manifest = json.loads(max(out.glob("checkpoints/*/*/manifest.json")).read_text())
    tensors = [tensor for file in manifest["files"] for tensor in file["tensors"] if tensor["name"].startswith("model.")]
    return sum(math.prod(tensor["shape"]) for tensor in tensors)
