"""What both training scripts share: model, data, settings and a log of what happened when."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

# The model whose losses `bench/reference` compares with Muster's.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
from gpt import GPT, SIZES, Tokens, make_optim


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", required=True, help="raw little-endian u16 tokens")
    parser.add_argument("--out", required=True, help="directory of the logs, one a rank")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=8, help="sequences a rank and step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=SIZES, default="nano")
    return parser


class Log:
    """A line of JSON for each thing that happened, with the wall clock's time; unbuffered, since the process may be killed."""

    def __init__(self, directory, rank):
        self.file = open(f"{directory}/log.{rank}.jsonl", "a", buffering=1)
        self.usual = {"rank": rank, "pid": os.getpid()}

    def say(self, event, at=None, **more):
        self.file.write(json.dumps({"event": event, "at": at or time.time(), **self.usual, **more}) + "\n")
