"""Python packages at pinned versions, in directories of the per-user cache that PYTHONPATH can name."""
import subprocess
import sys

from lib import cache
from lib.say import Failure


def installed(packages):
    """Where the packages lie, after installing them, once."""
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    target = cache.root() / "python" / "-".join([python, *(package.replace("==", "-") for package in packages)])
    with cache.lock("python"):
        if not cache.is_whole(target):
            with cache.staged(target) as staging:
                install(packages, staging)
    return target


def install(packages, into):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", into, *packages]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"pip cannot install {' '.join(packages)}: {done.stderr.strip()}")
