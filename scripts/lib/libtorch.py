"""libtorch out of PyPI's wheels: only what is needed to build and run, in the layout that its library paths expect."""
import hashlib
import json
import os
import platform
import re
import shutil
import zipfile
from pathlib import Path

from lib import cache, pypi
from lib.say import Failure, step

PINS = json.loads((Path(__file__).parent.parent / "pins.json").read_text())["libtorch"]
VERSION = PINS["version"]
GLIBC_AT_LEAST = (2, 28)  # manylinux_2_28, the torch wheel's own tag


def pins(device):
    return [pypi.Pin(entry, PINS["python"]) for entry in PINS["sets"][device]]


def directory(device):
    """Where the set lies. What it is made of is part of its name, so a directory never changes once it is there."""
    content = json.dumps(PINS["sets"][device], sort_keys=True).encode()
    return cache.root() / "libtorch" / f"{VERSION}-{device}-{hashlib.sha256(content).hexdigest()[:8]}"


def check_machine():
    machine = f"{platform.system()} on {platform.machine()}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Failure(f"PyPI's libtorch {VERSION} is taken for Linux on x86_64; this is {machine}.")
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        glibc = ""
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", glibc)
    if not found or tuple(map(int, found.groups())) < GLIBC_AT_LEAST:
        wanted = ".".join(map(str, GLIBC_AT_LEAST))
        raise Failure(f"libtorch {VERSION} needs glibc {wanted} or newer (Debian 10, Ubuntu 20.04); this system has {glibc or 'another C library'}.")


def describe(device):
    """What a set is made of, each file looked up in the index; fetches nothing of it."""
    files = pins(device)
    for pin in files:
        pypi.locate(pin)
        step(f"  {pin.requirement:32} {pin.bytes / 1e6:8.1f} MB  sha256 {pin.sha256[:16]}…  {pin.file}")
    step(f"  {len(files)} files, {sum(pin.bytes for pin in files) / 1e9:.2f} GB, to {directory(device)}")


def install(device):
    """Gives the directory of the set, fetching it if it is not there in full."""
    check_machine()
    target = directory(device)
    if cache.is_whole(target):
        return target
    with cache.lock("setup"):
        if not cache.is_whole(target):
            build(device, target)
    return target


def build(device, target):
    wheels = cache.ensure(cache.root() / "downloads")
    files = pins(device)
    missing = [pin for pin in files if not (wheels / pin.file).exists()]
    unpacked = sum(pin.bytes for pin in files) * (2.2 if device == "cuda" else 1.0)
    cache.need_space(wheels, sum(pin.bytes for pin in missing) + unpacked, f"libtorch {VERSION} for {device}")
    archives = [(pypi.fetch(pin, wheels), pin.take) for pin in files]
    step(f"unpacking into {target}")
    with cache.staged(target) as staging:
        for archive, take in archives:
            unpack(archive, take, staging)
        # torch-sys links with -ltorch. The real libtorch.so needs libtorch_cuda.so, which a program that loads CUDA at run
        # time must not; the linker reads this script in its place.
        (staging / "torch/lib/libtorch.so").write_text("/* GNU ld script */\nINPUT(-ltorch_cpu)\n")
        (staging / "torch/build-version").write_text(f"{VERSION}\n")
    for archive, _ in archives:
        archive.unlink()


def unpack(archive, take, into):
    wanted = re.compile(take)
    taken = 0
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            if wanted.match(entry.filename) and not entry.is_dir():
                path = into / entry.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as reader, open(path, "wb") as writer:
                    shutil.copyfileobj(reader, writer, pypi.BLOCK)
                taken += 1
    if taken == 0:
        raise Failure(f"{archive.name} holds nothing that matches {take}; scripts/pins.json does not fit this version")
