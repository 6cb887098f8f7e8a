"""Learns with scikit-learn in several processes and threads. The result depends on the number of steps alone.

Semaphores in /dev/shm (joblib's and multiprocessing's), arrays mapped from there, pipes and queues between processes,
OpenMP threads.
"""

import hashlib
import multiprocessing
import os
import secrets
import time
from multiprocessing import shared_memory

import joblib
import numpy
from sklearn.cluster import MiniBatchKMeans
from sklearn.neural_network import MLPClassifier

STEPS, HOLD, PAUSE = int(os.environ["STEPS"]), int(os.environ["HOLD"]), float(os.environ["PAUSE"])
WORKERS, ROWS = 2, 200


def part(data, n, worker):
    """What a joblib worker does with its rows; data is mapped from a file."""
    rows = data[worker::WORKERS]
    return numpy.tanh(rows * (1 + n % 7)).sum(axis=0)


def tally(name, shape, lock, orders, answers):
    """A process of its own that adds to a shared array when it is told to."""
    memory = shared_memory.SharedMemory(name=name)
    shared = numpy.ndarray(shape, buffer=memory.buf)
    while (n := orders.get()) is not None:
        with lock:
            shared += n
        answers.put(int(shared[0, 0]))
    del shared
    memory.close()


def rest(n):
    """Pauses after step n until the file hurry is there: once, and from HOLD on for as long as it takes."""
    while PAUSE > 0 and not os.path.exists("/data/hurry"):
        time.sleep(PAUSE)
        if n < HOLD:
            break


def main():
    token, digest = secrets.token_hex(8), hashlib.sha256()
    random = numpy.random.default_rng(1)
    data = random.normal(size=(10000, 20))
    label = (data[:, 0] * data[:, 1] > 0).astype(int)
    memory = shared_memory.SharedMemory(create=True, size=8 * 100 * 100)
    shared = numpy.ndarray((100, 100), buffer=memory.buf)
    shared[:] = 0
    lock, orders, answers = multiprocessing.Lock(), multiprocessing.Queue(), multiprocessing.Queue()
    other = multiprocessing.Process(target=tally, args=(memory.name, shared.shape, lock, orders, answers))
    other.start()
    net, groups = MLPClassifier((64, 32), random_state=1), MiniBatchKMeans(8, random_state=1, n_init=1)
    with joblib.Parallel(n_jobs=WORKERS, max_nbytes=1 << 20, mmap_mode="r") as parallel:
        for n in range(1, STEPS + 1):
            orders.put(n)
            at = (n * ROWS) % len(data)
            net.partial_fit(data[at : at + ROWS], label[at : at + ROWS], classes=[0, 1])
            groups.partial_fit(data[at : at + ROWS])
            if n % 5 == 0:
                for row in parallel(joblib.delayed(part)(data, n, worker) for worker in range(WORKERS)):
                    digest.update(row.tobytes())
            digest.update(str(answers.get()).encode())
            print(f"n={n} token={token}", flush=True)
            rest(n)
    orders.put(None)
    other.join()
    for array in [*net.coefs_, groups.cluster_centers_, shared]:
        digest.update(array.tobytes())
    del shared
    memory.close()
    memory.unlink()
    with open("/dev/termination-log", "w") as log:
        log.write(digest.hexdigest())


if __name__ == "__main__":
    main()
