"""Run a command, and record its wall time and exit code under a name.

python bench/time_command.py "make test" -- make test
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from record import append

from medseg.environment import describe_git

if __name__ == "__main__":
    name, dashes, *command = sys.argv[1:]
    assert dashes == "--" and command, __doc__
    started = time.perf_counter()
    done = subprocess.run(command, check=False)
    wall_s = round(time.perf_counter() - started, 1)
    git = describe_git(Path.cwd())
    print(append({"what": "command", "name": name, "wall_s": wall_s, "exit_code": done.returncode, "commit": git["commit"]}))
    sys.exit(done.returncode)
