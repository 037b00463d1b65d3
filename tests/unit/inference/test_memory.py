"""What an engine takes of memory is measured without ever failing the work."""

import os
import subprocess
import sys

from workers.inference import memory


def test_a_child_that_ended_and_was_not_waited_for_counts_as_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is there all the same
        memory.start_peak()
        assert memory.peak() >= memory.resident() // 2 > 0
        assert memory._high_water(child.pid) == 0
    assert memory._high_water(child.pid) == 0, "it is gone"
