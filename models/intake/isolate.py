"""Run one task on files from outside in a process that can do little else.

The child is a fresh interpreter with an empty environment (no secrets, no hub), limits on memory, CPU time and file size,
and fences that the kernel keeps where it can: Landlock (writes only below one folder, reads only of the interpreter, this
code and the input, no execve, no TCP), an own network namespace, and an audit hook as a second lock for Python itself.
What comes back is bounded JSON: a result, or the sentence of a refusal. The parent never opens the files.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from models.refusal import Refused, shown

REPO = Path(__file__).resolve().parents[2]
MAX_ANSWER = 8 << 20  # bytes of JSON that a task may return
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys/devices/system", "/sys/fs/cgroup", "/dev")
_START = "import sys; sys.path.insert(0, {repo!r}); from models.intake import isolate; isolate.child()"


@dataclass(frozen=True)
class Limits:
    """What one task may use; `memory` counts private memory of the process, torch's own 0.5 GB included."""

    seconds: int = 300
    memory: int = 6 << 30
    file_size: int = 16 << 30


def run(task: str, arguments: dict, folder: Path, readable: tuple[Path, ...] = (), limits: Limits = Limits()) -> dict:
    """Run `models.intake.tasks.<task>(**arguments)`; it may write below `folder` only. Refused as the task refuses, or when stopped."""
    order = {
        "task": task, "arguments": arguments, "folder": str(folder.resolve()), "readable": [str(path.resolve()) for path in readable],
        "seconds": limits.seconds, "memory": limits.memory, "file_size": limits.file_size,
    }
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _START.format(repo=str(REPO))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env=_environment(folder), cwd=folder, start_new_session=True, close_fds=True,
        )
        try:
            answer, _ = child.communicate(json.dumps(order).encode(), timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            answer = None
        finally:
            _end(child)
        if answer is None or child.returncode in (-signal.SIGXCPU, -signal.SIGKILL) or child.returncode == 128 + signal.SIGKILL:
            raise Refused(f"Reading the files took more than {limits.seconds} s or more memory than allowed and was stopped. Check that they are what you meant; a large checkpoint is better opened by its folder.")
        return _read(answer, child.returncode, errors)


def _read(answer: bytes, code: int, errors) -> dict:
    if code != 0 or len(answer) > MAX_ANSWER:
        errors.seek(max(0, errors.seek(0, 2) - 2_000))
        last = (errors.read().decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        if "MemoryError" in last or "alloc" in last.lower():
            raise Refused("Reading the files needs more memory than allowed. They are larger than they look, or damaged; a large checkpoint is better opened by its folder.")
        raise Refused(f"The files could not be read: the reading process ended with code {code} ({shown(last, 160)}). Save the checkpoint again as safetensors.")
    result = json.loads(answer)
    if "refused" in result:
        raise Refused(result["refused"], details=tuple(result.get("details", ())))
    return result["result"]


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours: no tokens, no proxies, no cache folders."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
    return {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0", "MICROTOME_PUBLIC": os.environ.get("MICROTOME_PUBLIC", ""), **threads,
    }


def _end(child: subprocess.Popen) -> None:
    """The child and all it may have started: its session is its own."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    for stream in (child.stdin, child.stdout):
        stream.close()


def child() -> None:
    """The other side: read the order, put up the fences, run the task, write the answer."""
    order = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not the answer
    fence(order)
    from models.intake import tasks

    try:
        result = {"result": getattr(tasks, order["task"])(**order["arguments"])}
    except Refused as refusal:
        result = {"refused": str(refusal), "details": list(refusal.details)[:10_000]}
    except MemoryError:
        result = {"refused": "Reading the files needs more memory than allowed. They are larger than they look, or damaged; a large checkpoint is better opened by its folder."}
    answers.write(json.dumps(result).encode())
    answers.flush()
    os._exit(0)  # no destructors of what was read


def fence(order: dict) -> tuple[str, ...]:
    """Limits and fences for this process, for good; returns the names of those that the machine grants."""
    for what, value in (
        (resource.RLIMIT_DATA, order["memory"]), (resource.RLIMIT_CPU, order["seconds"]), (resource.RLIMIT_FSIZE, order["file_size"]),
        (resource.RLIMIT_NOFILE, 512), (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    granted = ["limits"]
    if libc.unshare(0x10000000 | 0x40000000) == 0:  # CLONE_NEWUSER | CLONE_NEWNET
        granted.append("network namespace")
    if _landlock(libc, order["folder"], order["readable"]):
        granted.append("landlock")
    _audit(order["folder"])
    return (*granted, "audit hook")


WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))  # write, remove and make of every kind
READS = 1 << 2 | 1 << 3
EXECUTE = 1
REFER, TRUNCATE, IOCTL = 1 << 13, 1 << 14, 1 << 15


def _landlock(libc, folder: str, readable: list[str]) -> bool:
    """Kernel-kept file rules (Linux 5.13+, https://docs.kernel.org/userspace-api/landlock.html); False where not offered."""
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    writes = WRITES | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0) | (IOCTL if version >= 5 else 0)
    handled = (ctypes.c_uint64 * 2)(EXECUTE | READS | writes, 3 if version >= 4 else 0)  # files; binding and connecting TCP
    ruleset = libc.syscall(444, handled, ctypes.c_size_t(16 if version >= 4 else 8), 0)
    if ruleset < 0:
        return False
    code = [str(REPO / name) for name in ("models", "kernels", "cache")]
    for path in (*SYSTEM, sys.prefix, sys.base_prefix, *code, *readable):
        _allow(libc, ruleset, path, READS)
    _allow(libc, ruleset, folder, READS | writes)
    _allow(libc, ruleset, "/dev/null", 1 << 1 | 1 << 2)
    done = libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return done


def _allow(libc, ruleset: int, path: str, access: int) -> None:
    if not os.path.exists(path):
        return
    if not os.path.isdir(path):
        access &= EXECUTE | 1 << 1 | 1 << 2 | TRUNCATE | IOCTL
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = access.to_bytes(8, "little") + handle.to_bytes(4, "little", signed=True)
    if libc.syscall(445, ruleset, 1, ctypes.create_string_buffer(rule, len(rule)), 0) != 0:
        raise OSError(ctypes.get_errno(), f"landlock rule for {path}")
    os.close(handle)


def _audit(folder: str) -> None:
    """Python's own lock, also where the kernel has none: no new process, no socket, no writing outside the folder."""
    root = os.path.realpath(folder) + os.sep
    forbidden = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn",
                 "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "webbrowser.open", "os.kill", "os.chown", "os.chmod")
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def hook(event: str, arguments: tuple) -> None:
        if event in forbidden:
            raise PermissionError(f"{event} is fenced off while files from outside are read")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & writes and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not (path + os.sep).startswith(root) and path != os.devnull:
                raise PermissionError("writing outside the folder is fenced off while files from outside are read")

    sys.addaudithook(hook)
