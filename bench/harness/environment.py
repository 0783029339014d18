"""What the benchmarks need on the machine: a Python environment for the peers, and one dataset for both sides."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from lib import cache, text
from lib.say import Failure, step

REQUIREMENTS = Path(__file__).resolve().parents[1] / "peers/requirements.txt"
DOWNLOAD_BYTES = 8e9


def python():
    """The interpreter of the peers' environment in the per-user cache, made once for each list of requirements."""
    version = f"py{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{version} {REQUIREMENTS.read_text()}".encode()).hexdigest()[:12]
    target = cache.root() / f"bench-venv-{digest}"
    done = target / ".complete"
    with cache.lock("bench-venv"):
        if not done.exists():
            cache.need_space(cache.ensure(cache.root()), DOWNLOAD_BYTES, "the Python environment of the peers")
            step(f"installing PyTorch and torchft for the peers into {target} (3 GB to fetch, 5 GB on disk; once)")
            shutil.rmtree(target, ignore_errors=True)
            call([sys.executable, "-m", "venv", target])
            call(
                [
                    target / "bin/python",
                    "-m",
                    "pip",
                    "install",
                    "--no-cache-dir",
                    "--disable-pip-version-check",
                    "--progress-bar=off",
                    "--quiet",
                    "-r",
                    REQUIREMENTS,
                ]
            )
            done.touch()
    return target / "bin/python"


def peers(interpreter):
    """The versions of what the peers run on."""
    lines = (
        "import importlib.metadata, platform, torch",
        "print('Python', platform.python_version())",
        "print('torch', torch.__version__)",
        "print('torchft-nightly', importlib.metadata.version('torchft-nightly'))",
    )
    return ", ".join(call([interpreter, "-c", "\n".join(lines)]).splitlines())


def dataset(root, muster):
    """The dataset that Muster reads and the very tokens that the peers read: Shakespeare, with 8,192 tokens of its own."""
    target = root / "data/bench"
    if not (target / "index.json").exists():
        step(f"preparing {target.relative_to(root)}")
        target.parent.mkdir(exist_ok=True)
        call(
            [
                muster,
                "data",
                "prepare",
                "--tokenizer",
                "train-bpe:8192",
                "--validation-fraction",
                "0.05",
                "--out",
                target,
                text.install(),
            ]
        )
    index = json.loads((target / "index.json").read_text())
    shards = index["splits"]["train"]["shards"]
    if index["dtype"] != "u16" or index["vocab_size"] != 8192 or len(shards) != 1:
        raise Failure(f"{target} is not what `bench/run` makes; remove it and run this again")
    return target, target / shards[0]["file"]


def call(command):
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout
