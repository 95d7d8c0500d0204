"""A daemon with many threads has the memory of few."""

import subprocess
import sys

THREADS = """
import ctypes, sys, threading
from meta_cni.linux import memory
memory.use_arenas(int(sys.argv[1]))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
ready = threading.Barrier(9)
def work():
    ready.wait()
    libc.malloc(100)
    ready.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for each in threads: each.start()
ready.wait(); ready.wait()
libc.malloc_stats()
"""


def arenas(count: int) -> int:
    """How many there are when eight threads have asked for memory at the same time."""
    command = [sys.executable, "-c", THREADS, str(count)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return told.count("Arena ")


def test_threads_share_arenas():
    """Else each thread that ever lived has left one behind."""
    assert 1 < arenas(8)
    assert 1 == arenas(1)
