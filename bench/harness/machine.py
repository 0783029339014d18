"""What the machine is, and how much of it others use."""

import os
import platform
import resource
import time

TICKS = os.sysconf("SC_CLK_TCK")
# Cores that others may use for the machine to count as quiet.
QUIET_CORES = 0.15


def hardware():
    """The machine in a few words."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
    }


def busy_seconds():
    """CPU seconds that were used on the whole machine since it started; what a hypervisor took away counts."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def own_seconds():
    """CPU seconds of this process and of its descendants that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Others:
    """Cores that everybody else uses, from its making to `cores()`. All that we started has to be reaped by then."""

    def __init__(self):
        self.begun, self.busy, self.own = time.monotonic(), busy_seconds(), own_seconds()

    def cores(self):
        ours = own_seconds() - self.own
        return round(max(0.0, busy_seconds() - self.busy - ours) / (time.monotonic() - self.begun), 2)


class Patience:
    """Waits for a quiet machine before each run, but no longer than so many seconds in all."""

    def __init__(self, seconds):
        self.left = seconds

    def wait(self):
        """Gives the cores that others used last, and the seconds that were waited."""
        begun = time.monotonic()
        while True:
            others = Others()
            time.sleep(1)
            cores, waited = others.cores(), time.monotonic() - begun
            if cores < QUIET_CORES or waited > self.left:
                self.left = max(0.0, self.left - max(0.0, waited - 1.5))
                return cores, round(waited, 1)
