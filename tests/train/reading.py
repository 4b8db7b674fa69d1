"""Read some batches by many workers and stop: a process by itself, for what is wrong shows as it ends."""

import multiprocessing

import toys

from saccade.train.stream import Reader

if __name__ == "__main__":
    reader = Reader(toys.stream(workers=16), seed=0)
    for _ in range(20):
        reader.next()
    reader.close()
    print(len(multiprocessing.active_children()), "workers left")
