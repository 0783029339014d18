"""Processes of one run: started, watched, and all gone afterwards, whatever happens."""

import ctypes
import json
import os
import signal
import subprocess
import time

PR_SET_CHILD_SUBREAPER = 36
# What would make a benchmarked process behave in another way than the command line says.
FOREIGN = (
    "MUSTER_",
    "RUST_LOG",
    "TORCH",
    "NCCL_",
    "GLOO_",
    "OMP_",
    "MKL_",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "MASTER_",
    "PYTHON",
)


class RunFailed(Exception):
    """A run gave no figure; the message says why."""


def adopt_orphans():
    """Makes whatever our children leave behind our own child, so that it is found, ended and counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children():
    """Process ids of our own children."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    parent = file.read().rpartition(")")[2].split()[1]
            except OSError:  # it has just ended
                continue
            if int(parent) == os.getpid():
                found.append(int(entry))
    return found


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {**kept, **more}


class Processes:
    """Used as a context: at its end, nothing that was started in it is left."""

    def __init__(self, root, directory):
        self.root, self.directory = root, directory
        self.started = []

    def __enter__(self):
        return self

    def start(self, name, command, **more):
        """Starts a command in a session of its own; its output goes to the file `name` of the directory."""
        with open(self.directory / name, "ab") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.root,
                env=environment(**more),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process.log = self.directory / name
        self.started.append(process)
        return process

    def __exit__(self, *_):
        for process in self.started:
            # By session first, while the leader is not reaped and its number can be nobody else's.
            if process.poll() is None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
        # What had left its parent's group is ours by now, generation after generation.
        while left := children():
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass


def wait_for(what, found, processes, seconds, pause=0.005):
    """Waits until `found` gives something, and gives that. None of the processes may end meanwhile."""
    end = time.monotonic() + seconds
    while True:
        if (answer := found()) is not None:
            return answer
        for process in processes:
            if process.poll() is not None:
                raise RunFailed(f"ended with status {process.returncode} before {what}: {last_words(process.log)}")
        if time.monotonic() > end:
            raise RunFailed(f"hung: {seconds:.0f} s passed before {what}")
        time.sleep(pause)


def enough(lines, count):
    """The lines, once there are so many."""
    return lines if len(lines) >= count else None


def last_words(path):
    """The last line that names an error, else the last line."""
    lines = path.read_text(errors="replace").strip().splitlines() or [""]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1]).strip()[:200]


class JsonLines:
    """The lines of a growing file, each with the time at which it was first seen.

    `key` says which lines are the same: Muster cuts lines of a discarded branch off its step log and writes on.
    """

    def __init__(self, path, key=None):
        self.path, self.key = path, key
        self.seen, self.lines, self.state = set(), [], None

    def read(self):
        """All lines so far, in the order in which they were seen."""
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            return self.lines
        if (stat.st_size, stat.st_mtime_ns) == self.state:
            return self.lines
        self.state = (stat.st_size, stat.st_mtime_ns)
        now = time.time()
        for number, text in enumerate(self.path.read_bytes().split(b"\n")[:-1]):
            line = json.loads(text)
            key = self.key(line) if self.key else number
            if key not in self.seen:
                self.seen.add(key)
                self.lines.append({**line, "seen": now})
        return self.lines
