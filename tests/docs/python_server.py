"""Run ``python`` commands without the seconds of importing: one process imports, and forks for each command.

``python python_server.py SOCKET MORE`` listens on a Unix socket for the command `CLIENT`, which sends arguments, folder
and environment. ``MORE`` is JSON: arguments to append to ``-m monai.bundle run ...`` for each word in it. Other
commands go to Python itself.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys

# the command: it sends itself with its three streams, and exits with the code that it receives
CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(9) or 1))
"""
LOADED = [
    *("monai.bundle", "monai.engines", "monai.networks.nets", "monai.transforms", "torch.distributed.run"),
    *(f"monai_pdddpm.{part}" for part in ("__main__", "cli.create", "engines", "handlers", "inferers", "transforms")),
]
FORKED = {name.partition(".")[0] for name in LOADED}


def run(words, folder, environment, more):
    """Run ``python words...`` in this process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    words = words[1:] if words[:1] == ["-u"] else words  # as torchrun calls its processes; output is not buffered here
    if words[:3] == ["-m", "monai.bundle", "run"]:
        words += [word for key, added in more.items() if any(key in word for word in words) for word in added.split()]
    if words[:1] != ["-m"] or words[1].partition(".")[0] not in FORKED:
        os.execv(sys.executable, [sys.executable, *words])
    sys.path.insert(0, folder)
    sys.argv = words[1:]
    sys.stdin, sys.stdout, sys.stderr = (open(n, mode, buffering=1) for n, mode in enumerate("rww"))  # noqa: SIM115
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)


def answer(client, more):
    """Run the client's command in a fork, and send its exit code."""
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as text:
        words, folder, environment = json.load(text)
    child = os.fork()
    if child == 0:
        client.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        run(words, folder, environment, more)
        sys.exit()
    for stream in streams:
        os.close(stream)
    client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256).encode())


def serve(address, more):
    """Answer until killed, or until the parent process ends."""
    parent = os.getppid()
    for name in LOADED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        server.settimeout(5)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks are not awaited
        while os.getppid() == parent:
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(client, more)
                os._exit(0)
            client.close()


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
