"""What scripts tell people."""
import sys
import time


class Failure(Exception):
    """Something that people can act on; the message says what happened and what to do."""


def step(message):
    print(message, flush=True)


def run(main):
    """Runs a script's main and turns its failures into one line and an exit status."""
    try:
        sys.exit(main() or 0)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


class Progress:
    """Bytes done of a total: one line that rewrites itself on a terminal, a line every tenth elsewhere."""

    def __init__(self, label, total_bytes):
        self.label, self.total = label, max(total_bytes, 1)
        self.terminal = sys.stderr.isatty()
        self.shown_at, self.tenth = 0.0, 0

    def show(self, done_bytes):
        share = min(done_bytes / self.total, 1.0)
        line = f"  {self.label}: {done_bytes / 1e6:.0f} of {self.total / 1e6:.0f} MB ({share:.0%})"
        if self.terminal:
            if share == 1.0 or time.monotonic() - self.shown_at > 0.2:
                self.shown_at = time.monotonic()
                print(f"\r{line}", end="\n" if share == 1.0 else "", file=sys.stderr, flush=True)
        elif int(share * 10) > self.tenth and self.total > 50e6:
            self.tenth = int(share * 10)
            print(line, file=sys.stderr, flush=True)
