#!/usr/bin/env python3
"""Puts the libtorch that Muster is built against into the per-user cache, from PyPI's wheels.

usage: fetch_libtorch.py LINK

LINK becomes a symbolic link to the unpacked set. Versions and digests are pinned below. A download that was cut off goes on
where it stopped; a set that is complete is reused by every clone.
"""
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

SET = "2.11.0-cpu-1"  # the last number counts changes of what is taken from the wheels
# requirement, sha256 of the wheel, what is taken out of it
WHEELS = [
    ("torch==2.11.0", "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
     r"torch/lib/(libtorch_cpu\.so|libc10\.so|libgomp\.so\.1)$|torch/include/(ATen|c10|torch|caffe2|fmt)/|torch/include/[^/]*\.h$"),
    ("nvidia-cuda-runtime==13.0.96", "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
     r"nvidia/cu13/(lib/libcudart\.so\.13$|include/)"),
    ("nvidia-cuda-crt==13.0.88", "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
     r"nvidia/cu13/include/"),
    ("nvidia-cuda-cupti==13.0.85", "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
     r"nvidia/cu13/lib/libcupti\.so\.13$"),
]
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64"]
NEEDED_BYTES = 2_000_000_000


def fail(message):
    sys.exit(f"setup: {message}")


def cache_root():
    explicit = os.environ.get("MUSTER_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster"


def pip(*arguments):
    selection = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
    for name in PLATFORMS:
        selection += ["--platform", name]
    command = [sys.executable, "-m", "pip", *arguments[:1], "--quiet", "--disable-pip-version-check", *selection, *arguments[1:]]
    try:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    except subprocess.CalledProcessError as error:
        fail(f"`{' '.join(command)}` failed (see above). Is pip installed, and is its package index reachable?"
             f" (exit status {error.returncode})")


def resolve(requirement):
    """Asks pip where the wheel is, so that the user's index settings hold."""
    with tempfile.TemporaryDirectory() as target:
        report = pip("install", "--dry-run", "--ignore-installed", "--report", "-", "--target", target, requirement)
    return json.loads(report)["install"][0]["download_info"]["url"]


def digest_of(path):
    with open(path, "rb") as file:
        hasher = hashlib.sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def download(url, part):
    """Fetches url into part, going on where an earlier try stopped."""
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=certificates)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, context=context, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # everything is there already
            return
        raise
    with response, open(part, "ab" if response.status == 206 else "wb") as file:
        shutil.copyfileobj(response, file, 1 << 20)


def fetch(requirement, digest, directory):
    done = directory / f"{requirement.replace('==', '-')}.whl"
    if done.exists() and digest_of(done) == digest:
        return done
    print(f"setup: fetching {requirement}", flush=True)
    url = resolve(requirement)
    if url.startswith("file:"):
        shutil.copyfile(urllib.request.url2pathname(url.removeprefix("file://")), done)
    else:
        part = done.with_suffix(".part")
        for attempt in range(5):
            try:
                download(url, part)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if attempt == 4:
                    fail(f"cannot fetch {requirement} from {url}: {error}. Run it again: it goes on where it stopped.")
        part.rename(done)
    found = digest_of(done)
    if found != digest:
        done.unlink()
        fail(f"{requirement} has digest {found}, expected {digest}: the download was removed; run it again,"
             " and if it happens again, do not trust the index.")
    return done


def unpack(wheel, pattern, root):
    wanted = re.compile(pattern)
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if wanted.match(entry.filename) and not entry.is_dir():
                archive.extract(entry, root)


def build_set(cache, target):
    wheels = cache / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(cache).free < NEEDED_BYTES:
        fail(f"{cache} has less than {NEEDED_BYTES // 10**9} GB free; point MUSTER_CACHE at a larger disk.")
    staging = Path(tempfile.mkdtemp(prefix=".libtorch-", dir=cache))
    try:
        for requirement, digest, pattern in WHEELS:
            unpack(fetch(requirement, digest, wheels), pattern, staging)
        # torch-sys links with -ltorch; the real libtorch.so needs libtorch_cuda.so, which the CPU set leaves out.
        (staging / "torch/lib/libtorch.so").write_text("/* GNU ld script */\nINPUT(-ltorch_cpu)\n")
        (staging / "torch/build-version").write_text("2.11.0\n")
        staging.chmod(0o755)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    shutil.rmtree(wheels)


def main():
    if len(sys.argv) != 2:
        fail(__doc__)
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        fail(f"libtorch's wheels are for Linux on x86_64; this is {platform.system()} on {platform.machine()}.")
    link, cache = Path(sys.argv[1]), cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / "libtorch" / SET
    target.parent.mkdir(exist_ok=True)
    with open(cache / "setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second setup waits, then finds the set complete
        if not target.exists():
            build_set(cache, target)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not (link.is_symlink() and link.resolve() == target.resolve()):
        fresh = link.with_name(f".{link.name}.{os.getpid()}")
        fresh.symlink_to(target)
        fresh.replace(link)


if __name__ == "__main__":
    main()
