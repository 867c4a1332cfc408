"""A gigabyte inspected, three hundred megabytes uploaded: seconds and the process's memory. `python -m benchmarks.checkpoints`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
INSPECT = """
import sys, time
from pathlib import Path
began = time.perf_counter()
from models import inspect
folder = Path(sys.argv[1])
rows = inspect.parameters(folder).num_rows
inspect.outline(folder), inspect.duplicates(folder)
seconds = time.perf_counter() - began
print(rows, seconds, next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])
"""
SERVE = """
import sys
from pathlib import Path
import uvicorn
from starlette.applications import Starlette
from pages.routes.upload import routes
uvicorn.run(Starlette(routes=routes(lambda: Path(sys.argv[1]))), port=int(sys.argv[2]), log_level="error")
"""


def gigabyte(folder: Path) -> Path:
    """A checkpoint of 1.07 GB: 64 matrices of 2048 × 2048 float32, random bytes."""
    size, block = 2048 * 2048 * 4, os.urandom(1 << 20)
    table = {f"model.layers.{i}.mlp.up_proj.weight": {"dtype": "F32", "shape": [2048, 2048], "data_offsets": [i * size, (i + 1) * size]} for i in range(64)}
    header = json.dumps(table).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(64 * size // len(block)):
            file.write(block)
    return folder


def inspected(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INSPECT, str(folder)], cwd=REPO, capture_output=True, text=True, check=True)
    rows, seconds, kilobytes = done.stdout.split()
    print(f"inspect 1.07 GB: {rows} tensors in {float(seconds):.2f} s (limit 10), peak {int(kilobytes) / 1e3:.0f} MB (limit 500)")


def uploaded(home: Path, megabytes: int = 300, port: int = 8793) -> None:
    import httpx

    from models import uploads

    server = subprocess.Popen([sys.executable, "-c", SERVE, str(home), str(port)], cwd=REPO)
    try:
        headers = {"x-microtome-ticket": uploads.ticket(home, ""), "origin": f"http://127.0.0.1:{port}"}
        client, n, block = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=600), megabytes * 1_000_000, os.urandom(1_000_000)
        begun = _begin(client, n)
        before, began = _resident(server.pid), time.perf_counter()
        done = client.put(f"/upload/{begun}/model.safetensors", content=(block for _ in range(megabytes)), headers={"content-length": str(n)}).json()
        seconds = time.perf_counter() - began
        assert done["received"] == n
        print(f"upload {megabytes} MB: {seconds:.1f} s, server {before:.0f} MB before, {_resident(server.pid):.0f} MB after, peak {_resident(server.pid, 'VmHWM'):.0f} MB")
    finally:
        server.terminate()
        server.wait()


def _begin(client, n: int) -> str:
    import httpx

    for _ in range(600):
        try:
            return client.post("/upload", json={"files": {"model.safetensors": n}}).json()["id"]
        except httpx.ConnectError:
            time.sleep(0.1)
    raise TimeoutError("the server did not start")


def _resident(pid: int, field: str = "VmRSS") -> float:
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field)) / 1e3


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        inspected(gigabyte(Path(temporary)))
    with tempfile.TemporaryDirectory() as temporary:
        uploaded(Path(temporary))
