"""A bad cable: carries Ethernet frames between two TAP devices, late, some out of order, and not all of them.

    cable.py NAME NAME --delay-ms 20 --jitter-ms 5 --loss 0.01 --seed 1

It makes the devices, says "ready", and carries until its standard input ends. Then it says as JSON how many frames came and
how many of those it lost. The devices are gone with it.
"""

import argparse
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
LONGEST_FRAME = 65536


def tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def frames(device):
    """Those that wait now."""
    while True:
        try:
            yield os.read(device, LONGEST_FRAME)
        except OSError:  # none is left, or the device is down
            return


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("names", nargs=2)
    arguments.add_argument("--delay-ms", type=float, required=True)
    arguments.add_argument("--jitter-ms", type=float, required=True)
    arguments.add_argument("--loss", type=float, required=True)
    arguments.add_argument("--seed", type=int, required=True)
    options = arguments.parse_args()
    dice = random.Random(options.seed)
    one, other = (tap(name) for name in options.names)
    print("ready", flush=True)

    numbers = itertools.count()  # frames that are due at once keep their order
    on_the_way = []
    came = lost = 0
    while True:
        wait = max(0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        readable, _, _ = select.select([one, other, sys.stdin], [], [], wait)
        if sys.stdin in readable:
            break
        now = time.monotonic()
        for source, target in ((one, other), (other, one)):
            if source not in readable:
                continue
            for frame in frames(source):
                came += 1
                if dice.random() < options.loss:
                    lost += 1
                    continue
                late = options.delay_ms + dice.uniform(-options.jitter_ms, options.jitter_ms)
                heapq.heappush(on_the_way, (now + late / 1000, next(numbers), target, frame))
        while on_the_way and on_the_way[0][0] <= now:
            _, _, target, frame = heapq.heappop(on_the_way)
            try:
                os.write(target, frame)
            except OSError:  # its end is down
                pass
    print(json.dumps({"frames": came, "lost": lost}))


if __name__ == "__main__":
    main()
