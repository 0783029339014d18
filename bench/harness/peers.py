"""The Python peers' side of each figure."""

import socket
import statistics
import time

from harness import figures
from harness.ours import HANGS_AFTER, PATIENCE, kill
from harness.processes import JsonLines, Processes, RunFailed, enough, last_words, wait_for


class Peer:
    """`bench` gives root, scratch directory, tokens and the directory of the Python environment's commands."""

    def __init__(self, bench):
        self.bench = bench

    def processes(self):
        return Processes(self.bench.root, self.bench.fresh_directory())

    def arguments(self, processes, case):
        data = (f"--tokens={self.bench.tokens}", f"--out={processes.directory}")
        return [*data, f"--batch={case.micro_batch}", f"--threads={case.threads}", f"--size={case.size}"]

    def logs(self, processes, case):
        return [JsonLines(processes.directory / f"log.{rank}.jsonl") for rank in range(case.workers)]


class Torchrun(Peer):
    """DistributedDataParallel under torchrun; plain Python where the world is one process."""

    name = "torchrun"
    # Steps between two checkpoints of the recovery.
    CHECKPOINT_EVERY = 10

    def start(self, processes, case, *more, launcher=()):
        torchrun = [self.bench.python.parent / "torchrun", "--standalone", f"--nproc-per-node={case.workers}", *launcher]
        launch = [self.bench.python] if case.workers == 1 else torchrun
        command = [*launch, "bench/peers/train_ddp.py", *self.arguments(processes, case), f"--dtype={case.dtype}", *more]
        self.bench.commands.append(command)
        return processes.start("output", command, OMP_NUM_THREADS=str(case.threads)), self.logs(processes, case)

    def throughput(self, case, steps, warmup):
        with self.processes() as processes:
            process, logs = self.start(processes, case, "--steps", warmup + steps)
            status = wait_for("it had ended", process.poll, [], PATIENCE + 10 * (warmup + steps), 0.02)
            if status != 0:
                raise RunFailed(f"ended with status {status}: {last_words(process.log)}")
            lines = logs[0].read()
            built = next(line for line in lines if line["event"] == "built")
            taken = steps_of(lines)
            stamps = [line["at"] for line in taken]
            return {
                "tokens_per_second": figures.rate(stamps, case.global_batch * case.context, warmup),
                "step_ms": 1e3 * figures.usual_step(stamps[warmup - 1 :]),
                # Each rank knows its own samples' loss only.
                "loss": statistics.mean(steps_of(log.read())[-1]["loss"] for log in logs),
                "parameters": built["parameters"],
            }

    def startup(self, case):
        with self.processes() as processes:
            begun = time.time()
            process, logs = self.start(processes, case)
            # Of the ranks the one that is first, as with Muster.
            first = wait_for(
                "the first step",
                lambda: min((line["at"] for log in logs for line in steps_of(log.read())), default=None),
                [process],
                PATIENCE,
            )
            return {"first_step_s": first - begun, "stages": stages_of([line for log in logs for line in log.read()], begun)}

    def recovery(self, case, phase):
        with self.processes() as processes:
            saving = ("--checkpoint", processes.directory / "checkpoint.pt", "--checkpoint-every", self.CHECKPOINT_EVERY)
            # The default interval is 0.1 s, too; it is said so that a later default does not change the figure.
            process, logs = self.start(processes, case, *saving, launcher=("--max-restarts=3", "--monitor-interval=0.1"))
            victim = logs[case.workers - 1]
            wanted = self.CHECKPOINT_EVERY + self.CHECKPOINT_EVERY // 2
            wait_for("it had trained", lambda: enough(steps_of(victim.read()), wanted), [process], PATIENCE)
            stamps = [line["at"] for line in steps_of(victim.lines)]
            usual = figures.usual_step(stamps)
            killed_at = kill(victim.lines[-1]["pid"], stamps[-1], usual, phase)
            events = lambda: [line for log in logs for line in log.read()]
            found = wait_for(
                "it was past where it had been",
                lambda: figures.torchrun_recovery(events(), killed_at),
                [process],
                HANGS_AFTER,
            )
            stages = stages_of([line for line in events() if line["at"] > killed_at and line["event"] != "step"], killed_at)
            return {**found, "usual_step_s": usual, "stages": stages}


class Torchft(Peer):
    """Replica groups of one process each under a lighthouse; a killed one is started again at once."""

    def __init__(self, bench, name, group_timeout_s, heartbeat_timeout_ms):
        super().__init__(bench)
        self.name, self.group_timeout_s, self.heartbeat_timeout_ms = name, group_timeout_s, heartbeat_timeout_ms

    def recovery(self, case, phase):
        with self.processes() as processes:
            address = f"http://127.0.0.1:{free_port()}"
            ticks = ("--join_timeout_ms=100", "--quorum_tick_ms=100", f"--heartbeat_timeout_ms={self.heartbeat_timeout_ms}")
            bind = ("--bind", address.replace("http://127.0.0.1", "[::]"), "--min_replicas=1")
            command = [self.bench.python.parent / "torchft_lighthouse", *bind, *ticks]
            self.bench.commands.append(command)
            lighthouse = processes.start("lighthouse", command)
            logs = self.logs(processes, case)

            def start(group):
                groups = (f"--group={group}", f"--groups={case.workers}", f"--group-timeout={self.group_timeout_s}")
                command = [self.bench.python, "bench/peers/train_torchft.py", *groups, *self.arguments(processes, case)]
                self.bench.commands.append(command)
                return processes.start(
                    f"output.{group}", command, OMP_NUM_THREADS=str(case.threads), USE_LIBUV="1", TORCHFT_LIGHTHOUSE=address
                )

            running = [start(group) for group in range(case.workers)]
            together = lambda: [
                line for line in steps_of(logs[-1].read()) if line["committed"] and line["world"] == case.workers
            ]
            wait_for("it had trained", lambda: enough(together(), case.kill_after), [lighthouse, *running], PATIENCE)
            stamps = [line["at"] for line in together()]
            usual = figures.usual_step(stamps)
            victim = running.pop()
            killed_at = kill(victim.pid, stamps[-1], usual, phase)
            victim.wait()
            running.append(start(case.workers - 1))
            replacement = lambda: [line for line in logs[-1].read() if line["pid"] == running[-1].pid]
            found = wait_for(
                "its world was full again",
                lambda: figures.torchft_recovery(logs[0].read(), replacement(), case.workers, killed_at),
                [lighthouse, *running],
                HANGS_AFTER,
            )
            return {**found, "usual_step_s": usual, "stages": stages_of(replacement(), killed_at)}


def steps_of(lines):
    return [line for line in lines if line["event"] == "step"]


def stages_of(lines, begun):
    """Seconds from `begun` until all that log had come to each stage for the first time."""
    stages = {}
    for line in lines:
        key = (line["event"], line["rank"])
        stages.setdefault(key, line["at"] - begun)
    names = ("started", "imported", "grouped", "built", "step")
    reached = {name: [seconds for (event, _), seconds in stages.items() if event == name] for name in names}
    return {name: max(seconds) for name, seconds in reached.items() if seconds}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
