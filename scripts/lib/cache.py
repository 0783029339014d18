"""The per-user cache: where things that are fetched once lie, whole or not at all."""
import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

from lib.say import Failure, step

# Written last into a staged directory: every file and its length.
LISTING = ".files.json"


def root():
    explicit = os.environ.get("MUSTER_CACHE")
    if explicit:
        return Path(explicit).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster"


def ensure(directory):
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot create {directory}: {error.strerror}. Point MUSTER_CACHE at a directory that you may write.") from error
    return directory


@contextlib.contextmanager
def lock(name):
    """Holds a lock that other processes of this user respect; it ends with the process."""
    with open(ensure(root()) / f"{name}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step("another setup is at work on the same cache; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def need_space(directory, bytes_needed, what):
    free = shutil.disk_usage(directory).free
    if free < bytes_needed:
        raise Failure(
            f"{what} needs {bytes_needed / 1e9:.1f} GB and {directory} has {free / 1e9:.1f} GB free."
            " Free some, or point MUSTER_CACHE at a larger disk."
        )


def is_whole(directory):
    """Whether every file that was put there is still there, at its length."""
    try:
        listing = json.loads((directory / LISTING).read_text())
        return all((directory / name).stat().st_size == size for name, size in listing.items())
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def staged(target):
    """Gives an empty directory that becomes `target` when the block ends well, and vanishes when it does not.

    A damaged `target` is replaced.
    """
    ensure(target.parent)
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a setup that was killed; the lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield staging
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        listing = {str(path.relative_to(staging)): path.stat().st_size for path in files}
        (staging / LISTING).write_text(json.dumps(listing))
        os.sync()
        staging.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except OSError as error:
        raise Failure(f"cannot write {staging}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def point(link, target):
    """Makes `link` a symbolic link to `target` in one step, so that no reader ever finds it missing."""
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    if link.exists() and not link.is_symlink():
        raise Failure(f"{link} is not a link that setup made; move it away")
    ensure(link.parent)
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    fresh.symlink_to(target)
    fresh.replace(link)
