"""The process that the bench dumps: a training job's memory, changed on command.

    job.py COMMANDS REPLIES

COMMANDS and REPLIES are FIFOs, a line in each direction. What it holds, about 530 MB:

    104 MiB  weights, float32, normal with a spread of 0.02
     96 MiB  the optimizer's two moments, float32; 5 % of the second are zeros
    112 MiB  training data: tokens, uint16, of Zipf's distribution, as text has them
     64 MiB  images, uint8, smooth with a little noise
     32 MiB  a buffer of zeros that was written once
    100 MiB  Python: its objects (dicts of strings, numbers and lists), the interpreter, numpy

Every page of an array may change; a change is one that its kind would see in earnest.
"""
import mmap
import os
import random
import sys
import zlib

import numpy as np

PAGE = 4096
MIB = 1 << 20
RECORDS = 90_000
WORDS = 50_000
RUN = (16, 512)  # pages in a row where changes come in clusters
random.seed(1)
chance = np.random.default_rng(1)


def pages(count):
    """count MiB of private memory from the start of a page, where np.empty begins anywhere."""
    memory = mmap.mmap(-1, count * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype=np.uint8).reshape(-1, PAGE)


def tokens(n):
    """A word's number is its rank: by Zipf's law, ranks are spread evenly over the logarithm."""
    return np.exp(chance.random(n, np.float32) * np.float32(np.log(WORDS))).astype(np.uint16)


def images(n):
    ramp = np.arange(n * PAGE, dtype=np.uint32) >> 5
    return (ramp + chance.integers(0, 4, n * PAGE)).astype(np.uint8).reshape(n, PAGE)


def normal(n, spread):
    return chance.standard_normal(n * PAGE // 4, np.float32) * np.float32(spread)


def squares(n):
    drawn = normal(n, 1e-3)
    return drawn * drawn * (chance.random(len(drawn), np.float32) > 0.05)


def fill():
    """The arrays: weights, first moments, second moments, tokens, images, buffer. Their places are their kinds."""
    makers = (
        (104, lambda n: normal(n, 0.02)), (48, lambda n: normal(n, 1e-3)), (48, squares),
        (112, lambda n: tokens(n * PAGE // 2)), (64, images), (32, lambda n: np.zeros(n * PAGE, np.uint8)),
    )
    arrays = []
    for size, make in makers:
        array = pages(size)
        for at in range(0, len(array), MIB // PAGE):  # bit by bit: what is used to make them does not stay in memory
            part = array[at:at + MIB // PAGE]
            part[:] = make(len(part)).view(np.uint8).reshape(part.shape)
        arrays.append(array)
    return arrays


def record(key):
    return {"key": key, "name": f"sample-{key:08d}", "labels": [random.random() for _ in range(4)],
            "where": ("shard", key % 97, f"part-{random.getrandbits(48):012x}")}


def touch(kind, page):
    """Changes one page as a step of its kind would."""
    if kind < 3:
        values = page.view(np.float32)
        values += chance.standard_normal(len(values), np.float32) * 1e-4
    elif kind == 3:
        page.view(np.uint16)[:] = tokens(PAGE // 2)
    elif kind == 4:
        page[:] = images(1)[0] + chance.integers(0, 256, dtype=np.uint8)
    else:
        page[:] = chance.integers(0, 3, PAGE, dtype=np.uint8)


class Job:
    def __init__(self):
        self.arrays = fill()
        self.records = [record(n) for n in range(RECORDS)]
        self.starts = np.cumsum([0] + [len(a) for a in self.arrays])
        self.total = int(self.starts[-1])
        self.next = RECORDS

    def touch(self, numbers):
        for number in numbers:
            kind = int(np.searchsorted(self.starts, number, side="right")) - 1
            touch(kind, self.arrays[kind][number - self.starts[kind]])

    def random(self, percent):
        self.touch(chance.choice(self.total, self.total * percent // 100, replace=False))

    def clustered(self, percent):
        left = self.total * percent // 100
        while left > 0:
            length = min(left, int(chance.integers(*RUN)))
            start = int(chance.integers(self.total - length))
            self.touch(range(start, start + length))
            left -= length

    def churn(self, percent):
        for _ in range(RECORDS * percent // 100):
            self.records[random.randrange(RECORDS)] = record(self.next)
            self.next += 1

    def sums(self, path):
        """One CRC of each page and of each record, into a file."""
        with open(path, "wb", buffering=MIB) as out:
            for array in self.arrays:
                for page in array:
                    out.write(zlib.crc32(page).to_bytes(4, "little"))
            for one in self.records:
                out.write(zlib.crc32(repr(one).encode()).to_bytes(4, "little"))


def resident():
    with open("/proc/self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("VmRSS"))


def main():
    commands, replies = sys.argv[1:]
    job, answer = Job(), "filled"
    while True:
        with open(replies, "w") as out:
            print(answer, resident(), os.getpid(), file=out)
        with open(commands) as come:
            verb, argument = come.readline().split()
        getattr(job, verb)(int(argument) if argument.isdigit() else argument)
        answer = verb


main()
