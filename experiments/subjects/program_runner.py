"""Programs that others wrote, run where they can do little: a process of their own, with limits of time and memory and an empty folder.

That is no sandbox: a program that means harm can still read files and open connections. It is for programs that were made here.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from tempfile import TemporaryDirectory

SECONDS, MEGABYTES = 2, 512
"""Of a program, and of the process."""
_CHILD = """
import json, resource, signal, sys, io, os
resource.setrlimit(resource.RLIMIT_AS, (%(bytes)d,) * 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
out, programs = os.dup(1), json.load(sys.stdin)
sys.stdin = sys.stdout = sys.stderr = io.StringIO()
def late(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, late)
for program in programs:
    right, spent = False, int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + 2 * %(seconds)d + 1, -1))
    signal.setitimer(signal.ITIMER_REAL, %(seconds)d)
    try:
        exec(compile(program, "program", "exec"), {"__name__": "program"})
        right = True
    except BaseException:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.write(out, b"1" if right else b"0")
"""


def passes(programs: Sequence[str]) -> list[bool]:
    """Of each program whether it ends without an exception within the limits; one that ends the process itself does not."""
    found = list[bool]()
    child = _CHILD % {"bytes": MEGABYTES << 20, "seconds": SECONDS}
    while len(found) < len(programs):
        left = programs[len(found) :]
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-I", "-S", "-c", child]
            done = subprocess.run(
                command,
                input=json.dumps(left).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
            )
        told = [byte == ord("1") for byte in done.stdout][: len(left)]
        found += told if len(told) == len(left) else [*told, False]
    return found
