"""Stands for a process that a parent has forked: `python -S -E client.py SOCKET ARGUMENTS OF PYTHON`."""

import json
import os
import signal
import socket
import sys


def main() -> int:
    path, *arguments = sys.argv[1:]
    asked = json.dumps({"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    with socket.socket(socket.AF_UNIX) as parent:
        parent.connect(path)
        socket.send_fds(parent, [len(asked).to_bytes(4, "big")], [0, 1, 2])
        parent.sendall(asked)
        # What it prints and reads is the process's alone.
        for number in range(3):
            os.close(number)
        answers = parent.makefile()
        pid = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        return int(answers.readline())


if __name__ == "__main__":
    code = main()
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
