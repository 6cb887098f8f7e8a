"""Multiplies matrices, and says every second how many products there were so far. Its argument is how many MiB it holds:
factors that stay as they are, and one product at a time."""
import os
import sys
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np

SIZE = 1024  # 8 MiB a matrix
factors = np.random.default_rng(1).random((int(sys.argv[1]) // 8 - 1, SIZE, SIZE))
product = np.empty((SIZE, SIZE))
done, said = 0, time.monotonic()
while True:
    # A slice of a product, so that a second has many operations.
    rows = slice(done * 32 % SIZE, done * 32 % SIZE + 32)
    np.matmul(factors[done % len(factors)][rows], factors[(done + 1) % len(factors)], out=product[rows])
    done += 1
    if time.monotonic() - said >= 1:
        said += 1
        print("did", done, flush=True)
