#!/usr/bin/python3
"""A training job whose whole state lives in memory.

It trains a small neural network on scikit-learn's handwritten digits, one mini-batch a step, and prints a line a step:

    step=17 loss=0.811423 token=6f1d... weights=b01c...

The same lines go to LOG, one write each. Nothing is ever saved or read back: weights, optimizer, random state, step
counter and a random token made at start exist in this process alone. So a run that goes on with the same token and the
next step is the same process. It also watches itself: weights that changed between two steps, or ballast that changed
at all, end it with exit status 2.

Environment: STEPS, STEP_SECONDS (pace; 0 runs at full speed), SEED, BALLAST_MB (random bytes held besides), LOG,
LINGER_SECONDS (how long it stays after its last line, so that LOG can still be read from within).
Given SEED and STEPS, the losses and the final weights are the same on every run.
"""

import hashlib
import os
import sys
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

STEPS = int(os.environ.get("STEPS", "1200"))
STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0.05"))
SEED = int(os.environ.get("SEED", "7"))
BALLAST_MB = int(os.environ.get("BALLAST_MB", "0"))
LOG = os.environ.get("LOG", "")
LINGER_SECONDS = float(os.environ.get("LINGER_SECONDS", "0"))
BATCH = 64
TEST_IMAGES = 360


def digest(*arrays):
    """Returns 16 hex digits of the sha256 of the arrays' bytes."""
    h = hashlib.sha256()
    for array in arrays:
        h.update(array)
    return h.hexdigest()[:16]


class Output:
    """Writes each line whole, to standard output and to the log file, so that a line is never torn."""

    def __init__(self, path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.files = [1] + ([os.open(path, flags, 0o644)] if path else [])

    def line(self, text):
        for fd in self.files:
            os.write(fd, (text + "\n").encode())


def batches(count, rng):
    """Yields index arrays of one mini-batch each, epoch after epoch, in an order drawn from rng."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            yield order[start : start + BATCH]


def fail(text):
    print("error: " + text, file=sys.stderr, flush=True)
    sys.exit(2)


def train(out, token, images, labels):
    """Trains STEPS steps and returns the network."""
    net = MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=0.001, random_state=SEED)
    known = None
    order = batches(len(images), np.random.default_rng(SEED))
    for step in range(1, STEPS + 1):
        if known and digest(*net.coefs_, *net.intercepts_) != known:
            fail(f"the weights changed between step {step - 1} and step {step}")
        pick = next(order)
        net.partial_fit(images[pick], labels[pick], classes=range(10))
        known = digest(*net.coefs_, *net.intercepts_)
        out.line(f"step={step} loss={net.loss_:.6f} token={token} weights={known}")
        time.sleep(STEP_SECONDS)
    return net, known


def main():
    token = os.urandom(16).hex()
    ballast = np.frombuffer(os.urandom(BALLAST_MB << 20), dtype=np.uint8)
    ballast_digest = digest(ballast)
    out = Output(LOG)
    images, labels = load_digits(return_X_y=True)
    images /= 16.0
    net, weights = train(out, token, images[TEST_IMAGES:], labels[TEST_IMAGES:])
    if digest(ballast) != ballast_digest:
        fail("the ballast in memory changed")
    accuracy = net.score(images[:TEST_IMAGES], labels[:TEST_IMAGES])
    out.line(f"done steps={STEPS} accuracy={accuracy:.4f} token={token} weights={weights}")
    time.sleep(LINGER_SECONDS)


if __name__ == "__main__":
    main()
