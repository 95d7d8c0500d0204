"""The official client's transport is imported when the first pods come, which may be many at once."""

import subprocess
import sys

AT_ONCE = """
import sys, threading
from meta_cni.k8s import api_store
sys.setswitchinterval(1e-6)
ready, failures = threading.Barrier(8), []
def ask():
    ready.wait()
    try:
        api_store._transport()
    except BaseException as error:
        failures.append(error)
threads = [threading.Thread(target=ask) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
print(failures)
"""


def test_many_pods_may_be_the_first():
    """A daemon that has just started met a KeyError for all of them but one."""
    printed = subprocess.run([sys.executable, "-c", AT_ONCE], check=True, capture_output=True, text=True)

    assert "[]\n" == printed.stdout
