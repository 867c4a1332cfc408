"""Exact sizes inside the files that Chromium wrote: SVG in millimetres, PDF page boxes in points, PNG pixels per inch."""

from __future__ import annotations

import re
import struct
import zlib

PT_PER_MM = 72 / 25.4


def size_svg(svg: str, width_mm: float, height_mm: float) -> str:
    """Plotly's SVG with a physical size; its viewBox stays, so the drawing is scaled as a whole."""
    head, end, rest = svg.partition(">")
    head = re.sub(r'(?<=\s)width="[^"]*"', f'width="{width_mm:.3f}mm"', head, count=1)
    head = re.sub(r'(?<=\s)height="[^"]*"', f'height="{height_mm:.3f}mm"', head, count=1)
    return head + end + rest


def size_pdf(pdf: bytes, width_mm: float, height_mm: float) -> bytes:
    """A one-page PDF with its page box cut to the exact size, kept at the top left where the drawing is.

    Chromium rounds pages up to whole px and 1/300 inch, up to 0.3 mm. The page object is written again at the end of the
    file with a new cross-reference section (an incremental update, PDF 32000-1 §7.5.6). Raises ValueError on a file that is
    not laid out as Skia's writer does.
    """
    page = re.search(rb"(\d+) 0 obj\n(<</Type /Page\n.*?)\nendobj", pdf, re.S)
    box = re.search(rb"/MediaBox \[0 0 [\d.]+ ([\d.]+)\]", page[2]) if page else None
    trailer = re.search(rb"trailer\n<<(.*?)>>\s*startxref\n(\d+)\n%%EOF\s*\Z", pdf, re.S)
    if not page or not box or not trailer:
        raise ValueError("not a PDF of one page as Chromium writes it")
    top = float(box[1])
    new = b"/MediaBox [0 %.3f %.3f %.3f]" % (top - height_mm * PT_PER_MM, width_mm * PT_PER_MM, top)
    number = int(page[1])
    start = len(pdf.rstrip()) + 1
    body = b"%d 0 obj\n%s\nendobj\n" % (number, page[2].replace(box[0], new))
    table = b"xref\n%d 1\n%010d 00000 n \n" % (number, start)
    end = b"trailer\n<<%s\n/Prev %s>>\nstartxref\n%d\n%%%%EOF\n" % (trailer[1], trailer[2], start + len(body))
    return pdf.rstrip() + b"\n" + body + table + end


def set_png_density(png: bytes, dots_per_inch: float) -> bytes:
    """A PNG that says how large it is on paper (chunk pHYs, PNG §11.3.5.3), placed right after its header."""
    header = 8 + 25  # signature; length, type, 13 bytes and CRC of IHDR
    per_metre = round(dots_per_inch / 0.0254)
    chunk = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    return png[:header] + struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[header:]
