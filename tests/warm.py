"""A Python that is warm: it has imported the packages that stages need, and forks itself for every command.

Importing torch takes longer than a stage on a few small images. `interpreter` gives an executable that stands in for
the interpreter where many stages are run by their command lines. The repository's own modules are never warm.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from processes import next_line, started

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    message = json.dumps([os.getcwd(), dict(os.environ), sys.argv]).encode()
    socket.send_fds(server, [len(message).to_bytes(4, "big")], [1, 2])
    server.sendall(message)
    sys.exit(int(server.makefile().read() or 1))
"""


@contextlib.contextmanager
def interpreter() -> Iterator[Path]:
    """The path of an executable that runs scripts and modules (-m) as python does, but is no use to kill."""
    with tempfile.TemporaryDirectory() as folder:
        address, client = Path(folder, "socket"), Path(folder, "python")
        client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        client.chmod(0o755)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # a fork has no threads but the one that forked
        with started(sys.executable, __file__, address, env=environment, stderr=None) as server:
            assert next_line(server) == "ready\n"
            yield client


def serve(address: str) -> None:
    """Run commands, each in a fork of a fork that waits for it and sends its exit code, until the parent has gone."""
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(5)
        signal.signal(signal.SIGCHLD, reap)
        print("ready", flush=True)
        while os.getppid() == parent:
            with contextlib.suppress(TimeoutError), listener.accept()[0] as connection:
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os._exit(answer(connection))


def reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def answer(connection: socket.socket) -> int:
    length, streams, *_ = socket.recv_fds(connection, 4, 2)
    folder, environment, words = json.loads(connection.makefile().read(int.from_bytes(length, "big")))
    child = os.fork()
    if not child:
        os.setsid()
        return run(folder, environment, words, streams)
    for stream in streams:
        os.close(stream)
    threading.Thread(target=end_with_client, args=(connection, child), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(str(abs(code)).encode())
    return 0


def end_with_client(connection: socket.socket, child: int) -> None:
    """Kill a command whose client was killed: a client sends no more, so that its end is all there is to receive."""
    connection.recv(1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def run(folder: str, environment: dict[str, str], words: list[str], streams: list[int]) -> int:
    """Be the process of a command, up to its exit code: torch takes longer to be taken apart than a stage does."""
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable, *words = (word for word in words if word != "-u")
    code = 0
    try:
        if words[0] == "-m":
            sys.argv, sys.path[0] = words[1:], folder
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        code = 1
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def warm_up() -> None:
    """Import what stages import, and forget what of it is the repository's own."""
    repository = Path(__file__).resolve().parent.parent
    sys.path.insert(1, str(repository))
    for script in importlib.import_module("stages").STAGES:
        importlib.import_module(script.removesuffix(".py").replace("/", "."))
    importlib.import_module("torch._dynamo")  # which the first step of an optimizer imports
    own = {"stages", "processes", *(folder.name for folder in repository.iterdir())}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    del sys.path[1]


if __name__ == "__main__":
    warm_up()
    serve(sys.argv[1])
