"""Archives that write elsewhere, that link, that swell, that lie about their sizes."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile

from hostile.cases import case


def zip_with(into, name: str, data: bytes = b"x" * 64, attributes: int = 0, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(into / "model.zip", "w", compression) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = attributes, compression
        archive.writestr(info, data)


def tar_with(into, info: tarfile.TarInfo, data: bytes = b"", name: str = "model.tar"):
    info.size = len(data)
    with tarfile.open(into / name, "w") as archive:
        archive.addfile(info, io.BytesIO(data))


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.devmajor, info.devminor = kind, link, 1, 3
    return info


OUTSIDE = "wants to write outside its folder"
SPECIAL = "holds a link, device or other special file"


@case("archive path", OUTSIDE)
def zip_slip(into, good, canary):
    zip_with(into, "../../../../../.." + str(canary) + ".json")


@case("archive path", OUTSIDE)
def zip_absolute(into, good, canary):
    zip_with(into, str(canary) + ".json")


@case("archive path", OUTSIDE)
def zip_backslashes(into, good, canary):
    zip_with(into, "..\\..\\..\\" + canary.name + ".json")


@case("archive path", OUTSIDE)
def zip_drive_letter(into, good, canary):
    zip_with(into, "C:\\windows\\config.json")


@case("archive path", OUTSIDE)
def tar_slip(into, good, canary):
    tar_with(into, tarfile.TarInfo("model/../../../" + canary.name + ".json"), b"{}")


@case("archive path", OUTSIDE)
def tar_absolute(into, good, canary):
    tar_with(into, tarfile.TarInfo(str(canary) + ".json"), b"{}")


@case("archive link", SPECIAL)
def zip_symlink(into, good, canary):
    zip_with(into, "model.safetensors", b"/etc/passwd", (stat.S_IFLNK | 0o777) << 16)


@case("archive link", SPECIAL)
def tar_symlink(into, good, canary):
    tar_with(into, special("model.safetensors", tarfile.SYMTYPE, "/etc/passwd"))


@case("archive link", SPECIAL)
def tar_hard_link(into, good, canary):
    tar_with(into, special("config.json", tarfile.LNKTYPE, "/etc/passwd"))


@case("archive link", SPECIAL)
def tar_link_then_file_through_it(into, good, canary):
    with tarfile.open(into / "model.tar", "w") as archive:
        archive.addfile(special("weights", tarfile.SYMTYPE, str(canary.parent)))
        info = tarfile.TarInfo("weights/" + canary.name)
        archive.addfile(info)


@case("archive device", SPECIAL)
def tar_device_node(into, good, canary):
    tar_with(into, special("model.safetensors", tarfile.CHRTYPE))


@case("archive device", SPECIAL)
def tar_pipe(into, good, canary):
    tar_with(into, special("config.json", tarfile.FIFOTYPE))


@case("archive device", SPECIAL)
def tar_sparse(into, good, canary):
    info = special("model.safetensors", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % (1 << 30)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    (into / "model.tar").write_bytes(bytes(header) + bytes(10240))


@case("archive bomb", "no weights do. It is a zip bomb")
def zip_bomb(into, good, canary):
    zip_with(into, "model.safetensors", bytes(60_000_000), compression=zipfile.ZIP_DEFLATED)


@case("archive bomb", "holds 2,001 files")
def zip_of_many_files(into, good, canary):
    with zipfile.ZipFile(into / "model.zip", "w") as archive:
        for i in range(2_001):
            archive.writestr(f"{i}.json", "{}")


@case("archive bomb", "larger than the archive says|damaged|cut short")
def zip_that_lies_about_its_size(into, good, canary):
    zip_with(into, "config.json", b"A" * 100_000, compression=zipfile.ZIP_DEFLATED)
    raw = bytearray((into / "model.zip").read_bytes())
    for position in (raw.find(b"PK\x03\x04") + 22, raw.find(b"PK\x01\x02") + 24):
        raw[position : position + 4] = struct.pack("<I", 10)
    (into / "model.zip").write_bytes(raw)


@case("archive bomb", "unpacks to more than")
def tar_gz_bomb(into, good, canary):
    info = tarfile.TarInfo("model.safetensors")
    info.size = 2 << 30
    with gzip.open(into / "model.tar.gz", "wb", 1) as out:
        out.write(info.tobuf())
        for _ in range(64):
            out.write(bytes(1 << 20))


@case("archive bomb", "unpacks to more than|window above|damaged")
def tar_zst_bomb(into, good, canary):
    import zstandard

    info = tarfile.TarInfo("model.safetensors")
    info.size = 1 << 40
    (into / "model.tar.zst").write_bytes(zstandard.ZstdCompressor(level=1).compress(info.tobuf() + bytes(30_000_000)))


@case("archive bomb", "window above 128 MB")
def zst_that_wants_a_huge_window(into, good, canary):
    (into / "model.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(64))


@case("archive bomb", "outside|special|damaged|more than|no file of a checkpoint|names|needs more memory")
def tar_with_a_giant_pax_header(into, good, canary):
    with tarfile.open(into / "model.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("config.json")
        info.pax_headers = {"comment": "a" * 20_000_000, "path": "b" * 1_000_000}
        archive.addfile(info)


@case("archive broken", "cut short|damaged")
def tar_cut_short(into, good, canary):
    info = tarfile.TarInfo("model.safetensors")
    info.size = 1_000_000
    (into / "model.tar").write_bytes(info.tobuf() + bytes(2_000))


@case("archive broken", "damaged")
def zip_cut_short(into, good, canary):
    zip_with(into, "model.safetensors", bytes(10_000))
    raw = (into / "model.zip").read_bytes()
    (into / "model.zip").write_bytes(raw[: len(raw) // 2])


@case("archive broken", "encrypted")
def zip_encrypted(into, good, canary):
    zip_with(into, "config.json", b"{}")
    raw = bytearray((into / "model.zip").read_bytes())
    raw[6] |= 1
    raw[raw.find(b"PK\x01\x02") + 8] |= 1
    (into / "model.zip").write_bytes(raw)


@case("archive broken", "twice")
def zip_with_one_name_twice(into, good, canary):
    with zipfile.ZipFile(into / "model.zip", "w") as archive:
        archive.writestr("a/config.json", "{}")
        archive.writestr("b/config.json", "{}")


@case("archive broken", "no file of a checkpoint")
def archive_in_an_archive(into, good, canary):
    zip_with(into, "inner.zip", b"PK\x03\x04" + bytes(100))


@case("archive broken", "no file of a checkpoint")
def only_code(into, good, canary):
    zip_with(into, "modeling_custom.py", f"open({str(canary)!r}, 'w')".encode())


@case("archive broken", "damaged|is no zip")
def gzip_that_is_no_tar(into, good, canary):
    (into / "model.tar.gz").write_bytes(gzip.compress(b"hello " * 1_000))


@case("archive broken", "is no zip, tar")
def text_as_archive(into, good, canary):
    (into / "model.tar").write_bytes(b"hello " * 1_000)
