"""Programs with several fake devices run in processes of their own: they are started here, and watched until they end."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parents[1]
SECONDS = 900


class End(NamedTuple):
    """How a process ended, how long after the first that did, and what it had written to its standard output and error together."""

    code: int
    seconds: float
    output: str


def start_and_wait(commands: list[list], logs: Path, variables: dict[str, str], first: str = "") -> list[End]:
    """Python with each of the commands, at once; `HOST:PORT` in them is where they meet, `first` where they look for modules first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join(filter(None, [first, str(SOURCE), os.environ.get("PYTHONPATH")]))
    running, logs = [], [logs / f"{process}.log" for process in range(len(commands))]
    for command, log in zip(commands, logs, strict=True):
        command = [sys.executable, *(str(part).replace("HOST:PORT", address) for part in command)]
        environment = {**os.environ, "PYTHONPATH": path, **variables}
        with log.open("w") as file:
            running.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
    ended, deadline = {}, time.monotonic() + SECONDS
    try:
        while len(ended) < len(running) and time.monotonic() < deadline:
            for process in running:
                if process not in ended and process.poll() is not None:
                    ended[process] = time.monotonic()
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()
            process.wait()
    began = min(ended.values(), default=0.0)
    return [
        End(process.returncode, ended.get(process, np.inf) - began, log.read_text())
        for process, log in zip(running, logs, strict=True)
    ]


@pytest.fixture(scope="session")
def run_together() -> Callable[..., list[End]]:
    return start_and_wait


@pytest.fixture(scope="session")
def found_by(tmp_path_factory) -> Callable[..., list[dict]]:
    """Runs `python PROGRAM FOLDER ADDRESS PROCESSES PROCESS` of this folder, and reads what each wrote to FOLDER/PROCESS.json."""

    def run(program: str, processes: int = 1) -> list[dict]:
        folder = tmp_path_factory.mktemp("program")
        commands = [[HERE / program, folder, "HOST:PORT", processes, process] for process in range(processes)]
        ends = start_and_wait(commands, folder, {})
        assert [end.code for end in ends] == [0] * processes, "\n".join(end.output for end in ends)
        return [json.loads((folder / f"{process}.json").read_text()) for process in range(processes)]

    return run
