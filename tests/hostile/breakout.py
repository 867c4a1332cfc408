"""Try to leave the fence in every way at hand; prints JSON {attempt: "denied" or what it got}. Run by tests/test_hostile.py."""

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from models.intake import isolate

order, outside = json.loads(sys.argv[1]), Path(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
granted = isolate.fence(order)


def c_write():
    if libc.open(str(outside / "c").encode(), 0o101, 0o600) < 0:
        raise OSError("denied")


def c_system():
    if libc.system(f"touch {outside}/system".encode()) != 0:
        raise OSError("denied")


def link_out():
    os.symlink(outside / "secret", Path(order["folder"]) / "link")
    (Path(order["folder"]) / "link").write_text("changed")


ATTEMPTS = {
    "write outside": lambda: (outside / "w").write_text("x"),
    "write outside in C": c_write,
    "write through a link": link_out,
    "read outside": lambda: (outside / "secret").read_text(),
    "shell": lambda: os.system(f"touch {outside}/shell"),
    "shell in C": c_system,
    "subprocess": lambda: subprocess.run(["touch", str(outside / "sub")], check=True),
    "exec": lambda: os.execv("/bin/touch", ["touch", str(outside / "exec")]),
    "fork": os.fork,
    "network": lambda: socket.create_connection(("127.0.0.1", 22), 1),
    "memory": lambda: bytearray(2 << 30),
    "file size": lambda: (Path(order["folder"]) / "big").write_bytes(bytes(4 << 20)),
    "more memory": lambda: __import__("resource").setrlimit(__import__("resource").RLIMIT_DATA, (-1, -1)) if os.geteuid() else (_ for _ in ()).throw(OSError("root may")),
}

import signal  # noqa: E402

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
result = {"granted": granted}
for name, attempt in ATTEMPTS.items():
    try:
        result[name] = repr(attempt())[:80]
    except (OSError, MemoryError, ValueError, PermissionError):
        result[name] = "denied"
print(json.dumps(result))
