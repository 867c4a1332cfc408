"""Run many intake tasks, each in its own fenced process, paying for the import of torch and transformers once.

The parent imports and forks; the child puts up the same fences as models.intake.isolate.child and runs one task. Used by
the tests because a hundred fresh interpreters would take minutes; what the app does (isolate.run) is tested beside it.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


class Zygote:
    """`run(task, arguments, folder, readable)` → the task's answer with `seconds` and `peak` (bytes of resident memory)."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RUST_BACKTRACE": "0", "PYTHONPATH": str(REPO)}
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=REPO, env=environment, text=True)

    def run(self, task: str, arguments: dict, folder: Path, readable=(), seconds: int = 60, memory: int = 6 << 30) -> dict:
        order = {"task": task, "arguments": arguments, "folder": str(folder), "readable": [str(p) for p in readable], "seconds": seconds, "memory": memory, "file_size": 1 << 30}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def serve():
    import tokenizers  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    from models.intake import isolate

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(out)
            _child(order, into, isolate)
        os.close(into)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(order["seconds"])
        with os.fdopen(out, "rb") as reader:
            raw = reader.read()
        _, status, usage = os.wait4(child, 0)
        signal.alarm(0)
        answer = json.loads(raw) if raw else {"refused": "", "killed": os.waitstatus_to_exitcode(status)}
        answers.write(json.dumps({**answer, "seconds": time.monotonic() - began, "peak": usage.ru_maxrss * 1024}) + "\n")
        answers.flush()


def _child(order, into, isolate):
    from models.refusal import Refused

    try:
        os.chdir(order["folder"])
        isolate.fence(order)
        from models.intake import tasks

        try:
            answer = {"result": getattr(tasks, order["task"])(**order["arguments"])}
        except Refused as refusal:
            answer = {"refused": str(refusal), "details": list(refusal.details)}
    except BaseException as error:
        answer = {"crashed": f"{type(error).__name__}: {error}"}
    with os.fdopen(into, "wb") as writer:
        writer.write(json.dumps(answer).encode())
    os._exit(0)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve()
