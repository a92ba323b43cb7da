"""Processes that train beside another one end with it, however it ends."""

import subprocess
import sys

PARENT = """
import os, time
from jepa_arm.training.cpu import worker_pool

pool = worker_pool(2)
pool.submit(os.getpid).result()
for _ in range(2):
    pool.submit(time.sleep, 600.0)
print('they work', flush=True)
time.sleep(600.0)
"""


def test_workers_of_a_training_that_is_killed_end_with_it() -> None:
    with subprocess.Popen([sys.executable, '-c', PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b'they work\n'
        parent.kill()
        parent.communicate(timeout=30.0)  # ends when nobody has the other end of the pipe
