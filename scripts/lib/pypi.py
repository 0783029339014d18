"""Distributions from the Python package index, at pinned versions and digests.

pip says where a file is, so that the user's index, mirror and proxy settings hold. The file itself is fetched here, because
pip starts a download of half a gigabyte anew each time that it is cut off. Where that does not work (an index that wants
credentials, a pip without reports), pip downloads.
"""
import hashlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from lib.say import Failure, Progress, step

BLOCK = 1 << 20
TRIES = 5
# A wheel's tag is one of these; pip wants each spelled out.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 11, -1)] + ["manylinux2014_x86_64", "manylinux2010_x86_64"]


class Pin:
    """One distribution file: package, version, file name, length and sha256."""

    def __init__(self, entry, python):
        self.name, self.version, self.file = entry["name"], entry["version"], entry["file"]
        self.bytes, self.sha256, self.take = entry["bytes"], entry["sha256"], entry["take"]
        self.python = python

    @property
    def requirement(self):
        return f"{self.name}=={self.version}"

    @property
    def selection(self):
        """What makes pip choose this very file, whatever Python runs it."""
        if not self.file.endswith(".whl"):
            return ["--no-deps", "--no-binary=:all:"]
        tag = "cp" + self.python.replace(".", "")
        choice = ["--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}"]
        return choice + [f"--abi={abi}" for abi in (tag, "abi3", "none")] + [f"--platform={name}" for name in PLATFORMS]


def pip(arguments):
    """Runs pip; gives its exit status and what it said."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if "No module named pip" in done.stdout:
        raise Failure(f"{sys.executable} has no pip. Install it (Debian, Ubuntu: apt install python3-pip) and run this again.")
    return done.returncode, done.stdout.strip()


def locate(pin):
    """The URL of the pinned file, or None where this pip cannot say."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        status, said = pip(["install", "--dry-run", "--quiet", "--disable-pip-version-check", "--ignore-installed",
                            "--ignore-requires-python", f"--report={report}", f"--target={scratch}/target",
                            *pin.selection, pin.requirement])
        if status != 0:
            if "no such option" in said:
                return None
            raise Failure(f"pip cannot find {pin.requirement}:\n{said}\nIs the package index reachable?")
        found = json.loads(report.read_text())["install"][0]["download_info"]
    offered = found.get("archive_info", {}).get("hash", "").split("=")[-1]
    if offered and offered != pin.sha256:
        raise Failure(wrong_digest(pin, offered, "The index offers another file; nothing was fetched."))
    return found["url"]


def fetch(pin, directory):
    """Gives the path of the pinned file below `directory`; what an earlier try left there is used."""
    done, part = directory / pin.file, directory / f"{pin.file}.part"
    if done.exists():
        if digest_of(done) == pin.sha256:
            return done
        done.unlink()
    step(f"fetching {pin.requirement} ({pin.bytes / 1e6:.1f} MB)")
    url = locate(pin)
    if url is None or not transfer(url, part, pin):
        pip_download(pin, directory)
        done.replace(part)
    found = digest_of(part)
    if found != pin.sha256:
        part.unlink()
        raise Failure(wrong_digest(pin, found, "The download was removed. Run this again; if it repeats, do not trust the index."))
    part.replace(done)
    return done


def transfer(url, part, pin):
    """Fetches `url` into `part`, going on where an earlier try stopped. False: pip has to do it."""
    if url.startswith("file:"):
        shutil.copyfile(urllib.request.url2pathname(urllib.parse.urlsplit(url).path), part)
        return True
    cause = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(2**attempt)
        try:
            if stream(url, part, pin):
                return True
            cause = "the connection closed early"
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 404, 407):
                return False
            cause = f"HTTP status {error.code}"
        except ssl.SSLError:
            return False
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLError):
                return False
            cause = str(error)
        except OSError as error:
            raise Failure(f"cannot write {part}: {error.strerror or error}") from error
    host = urllib.parse.urlsplit(url).hostname
    raise Failure(f"cannot fetch {pin.file} from {host}: {cause}. Run this again: it goes on where it stopped.")


def stream(url, part, pin):
    """One request; whether the file is there in full afterwards."""
    have = part.stat().st_size if part.exists() else 0
    if have > pin.bytes:
        part.unlink()
        have = 0
    if have == pin.bytes:
        return True
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    certificates = os.environ.get("PIP_CERT")
    context = ssl.create_default_context(cafile=certificates) if certificates else None
    with urllib.request.urlopen(request, context=context, timeout=60) as response:
        if response.status != 206:  # the server sends all of it again
            have = 0
        progress = Progress(pin.file.split("-")[0], pin.bytes)
        with open(part, "ab" if have else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                have += len(block)
                progress.show(have)
    return have >= pin.bytes


def pip_download(pin, directory):
    status, said = pip(["download", "--quiet", "--disable-pip-version-check", "--ignore-requires-python", f"--dest={directory}",
                        *pin.selection, pin.requirement])
    if status != 0 or not (directory / pin.file).exists():
        raise Failure(f"pip cannot download {pin.file}:\n{said}")


def digest_of(path):
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def wrong_digest(pin, found, advice):
    return f"{pin.file} has sha256 {found}, pinned is {pin.sha256}. {advice}"
