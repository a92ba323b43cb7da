"""Worker processes exit with their parent, even if it is killed."""

import subprocess
import sys

PARENT = """
import os, time
from jepa_arm.training.cpu import worker_pool

pool = worker_pool(2)
pool.submit(os.getpid).result()
for _ in range(2):
    pool.submit(time.sleep, 600.0)
print('workers started', flush=True)
time.sleep(600.0)
"""


def test_training_workers_exit_if_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, '-c', PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b'workers started\n'
        parent.kill()
        parent.communicate(timeout=30.0)  # returns when no process holds the pipe
