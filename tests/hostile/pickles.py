"""Pickles that run code, that bomb, or that lie about their tensors."""

import io
import pickle
import shutil
import struct
import zipfile

import torch

from hostile.cases import case


class Runs:
    """Unpickled without restriction it calls function(*arguments)."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def bad(canary, function=None):
    import os

    return Runs(function or os.system, f"touch {canary}")


def zipped(data: bytes, compression=zipfile.ZIP_STORED, name: str = "archive/data.pkl") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr(name, data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return out.getvalue()


def config(into, good):
    shutil.copy(good / "config.json", into)


@case("pickle", "asks for (posix|nt).system, which is code")
def os_system(into, good, canary):
    (into / "pytorch_model.bin").write_bytes(zipped(pickle.dumps(bad(canary), 2)))
    config(into, good)


@case("pickle", "asks for (posix|nt).system, which is code|cannot be read as a PyTorch state dict|not a plain table")
def os_system_bare(into, good, canary):
    (into / "pytorch_model.bin").write_bytes(pickle.dumps(bad(canary), 2))


@case("pickle", "which is code|not a plain table")
def eval_in_a_state_dict(into, good, canary):
    (into / "model.pt").write_bytes(zipped(pickle.dumps({"transformer.wte.weight": Runs(eval, f"open({str(canary)!r}, 'w')")}, 2)))


@case("pickle", "which is code|not a plain table")
def popen(into, good, canary):
    import subprocess

    (into / "model.pth").write_bytes(zipped(pickle.dumps(Runs(subprocess.Popen, ["touch", str(canary)]), 2)))


@case("pickle", "which is code|not a plain table")
def a_pickle_that_loads_a_pickle(into, good, canary):
    (into / "model.pt").write_bytes(zipped(pickle.dumps(Runs(pickle.loads, pickle.dumps(bad(canary))), 2)))


@case("pickle", "which is code|not a plain table|cannot be read")
def storage_from_bytes(into, good, canary):
    from torch.storage import _load_from_bytes

    (into / "model.pt").write_bytes(zipped(pickle.dumps(Runs(_load_from_bytes, zipped(pickle.dumps(bad(canary), 2))), 2)))


@case("pickle", "PyTorch pickle in a zip's clothes")
def pickle_as_archive(into, good, canary):
    (into / "model.zip").write_bytes(zipped(pickle.dumps(bad(canary), 2)))


@case("pickle", "not what its ending says: its content is a pickle")
def pickle_as_safetensors(into, good, canary):
    (into / "model.safetensors").write_bytes(pickle.dumps(bad(canary), 2))


@case("pickle", "not what its ending says: its content is a zip or PyTorch pickle")
def torch_file_as_safetensors(into, good, canary):
    (into / "model.safetensors").write_bytes(zipped(pickle.dumps(bad(canary), 2)))


@case("pickle", "not what its ending says")
def pickle_as_config(into, good, canary):
    shutil.copy(good / "model.safetensors", into)
    (into / "config.json").write_bytes(pickle.dumps(bad(canary), 2))


@case("pickle", "asks for argparse.Namespace, which is code")
def training_checkpoint_with_namespace(into, good, canary):
    import argparse

    torch.save({"args": argparse.Namespace(lr=1), "model": {"a": torch.ones(2)}}, into / "checkpoint.pt")


@case("pickle", "which is code")
def whole_module(into, good, canary):
    torch.save(torch.nn.Linear(2, 2), into / "model.pt")


@case("pickle", "which is code|not a plain table")
def numpy_in_a_pickle(into, good, canary):
    import numpy

    torch.save({"a": numpy.array([object()], dtype=object)}, into / "model.pt")


@case("pickle", "which is code|not a plain table|cannot be read")
def getattr_chain(into, good, canary):
    (into / "model.pt").write_bytes(zipped(b"\x80\x02cbuiltins\ngetattr\n(cos\nsystem\nX\x08\x00\x00\x00__call__tR(X" + struct.pack("<I", len(f"touch {canary}")) + f"touch {canary}".encode() + b"tR."))


@case("pickle", "not a plain table|cannot be read|more memory|was stopped|state dict")
def laughing_lists(into, good, canary):
    """Lists of lists of lists … by memo: 2^40 elements to whoever walks them."""
    text = b"\x80\x02]q\x00" + b"".join(b"]q" + bytes([i + 1]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(40)) + b"."
    (into / "model.pt").write_bytes(zipped(text))


@case("pickle", "cannot be read|not a plain table|more memory")
def string_of_a_terabyte(into, good, canary):
    (into / "model.pt").write_bytes(zipped(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc."))


@case("pickle", "unpacks to more than it holds")
def deflated_bomb_as_checkpoint(into, good, canary):
    (into / "model.pt").write_bytes(zipped(b"\x80\x02" + b"N0" * 8_000_000 + b"N.", zipfile.ZIP_DEFLATED))


@case("pickle", "claims 4,000,000,000 bytes but holds 4 .stride 0")
def tensor_of_stride_zero(into, good, canary):
    torch.save({"transformer.wte.weight": torch.zeros(1).expand(10**9)}, into / "model.pt")


@case("pickle", "cannot be read|claims|not a plain")
def tensor_beyond_its_storage(into, good, canary):
    torch.save({"a": torch.zeros(4)}, into / "honest.pt")
    with zipfile.ZipFile(into / "honest.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (into / "honest.pt").unlink()
    with zipfile.ZipFile(into / "model.pt", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data.replace(b"K\x04\x85", b"M\xff\xff\x85") if name.endswith("data.pkl") else data)


@case("pickle", "quantised|which is code|not a plain|cannot be read")
def sparse_tensor_with_indices_outside(into, good, canary):
    torch.save({"a": torch.sparse_coo_tensor(torch.tensor([[10**12]]), torch.ones(1), (10**13,), check_invariants=False)}, into / "model.pt")


@case("pickle", "holds a dict with epoch, loss")
def nothing_but_numbers(into, good, canary):
    torch.save({"epoch": 3, "loss": 0.5}, into / "model.pt")


@case("pickle", "is empty")
def empty_pickle(into, good, canary):
    (into / "model.bin").write_bytes(b"")


@case("pickle", "a zip without PyTorch's data.pkl")
def zip_as_checkpoint(into, good, canary):
    (into / "model.pt").write_bytes(zipped(b"x", name="readme.txt"))


@case("pickle", "not what its ending says")
def picture_as_checkpoint(into, good, canary):
    (into / "pytorch_model.bin").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
