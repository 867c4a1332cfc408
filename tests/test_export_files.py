"""The files of a figure: exact page sizes, embedded fonts, nothing cut off, no title, no network, the data whole."""

import io
import json
import math
import re
import struct

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from analysis.theme import DARK, PRINT
from export import browser, drawing, files, paper
from export.sizes import SIZES, page, size
from models.refusal import Refused
from tests.sample_figures import FIGURES, TABLE, card, heat_map

REDUNDANCY, SPANS, STRIP = FIGURES
chromium = pytest.mark.skipif(browser.find() is None, reason="no Chromium: PDF, SVG and PNG cannot be drawn (apt install chromium)")
MM = 72 / 25.4


@pytest.fixture(scope="module")
def drawn():
    """Every sample in a column, the first one at the other sizes too, drawn once."""
    asked = [(f, "89mm") for f in FIGURES] + [(REDUNDANCY, "183mm"), (REDUNDANCY, "slide")]
    return {(f.name, name): files.drawn_files(f, "", files.DRAWN if name == "89mm" else ("pdf", "svg"), SIZES[name]) for f, name in asked}


def pdf_text(pdf: bytes) -> str:
    return pdf.decode("latin-1")


def media_boxes(pdf: bytes) -> list[list[float]]:
    return [[float(x) for x in box.split()] for box in re.findall(r"/MediaBox \[([^\]]*)\]", pdf_text(pdf))]


@chromium
def test_pdf_page_is_the_size_asked_for(drawn):
    heights = {("redundancy", "89mm"): 89 * 344 / 520, ("redundancy", "183mm"): 183 * 344 / 520, ("redundancy", "slide"): 7.5 * 25.4}
    for (name, size_name), made in drawn.items():
        left, bottom, right, top = media_boxes(made["pdf"])[-1]
        assert (right - left) / MM == pytest.approx(SIZES[size_name].width_mm, abs=0.01)
        if (name, size_name) in heights:
            assert (top - bottom) / MM == pytest.approx(heights[name, size_name], abs=0.01)


@chromium
def test_pdf_is_readable_with_one_page_and_embedded_fonts(drawn):
    """The cross-reference table that was appended points at the page object it replaces; every font has its file inside."""
    pdf = drawn["redundancy", "89mm"]["pdf"]
    start = int(re.findall(rb"startxref\n(\d+)\n%%EOF\n\Z", pdf)[0])
    number, offset = re.match(rb"xref\n(\d+) 1\n(\d{10}) 00000 n \ntrailer\n<<.*/Prev (\d+)>>", pdf[start:], re.S).group(1, 2)
    assert pdf[int(offset):].startswith(number + b" 0 obj\n<</Type /Page\n")
    fonts, files_inside = re.findall(r"/FontName /(\S+)", pdf_text(pdf)), re.findall(r"/FontFile2? \d+ 0 R|/FontFile3 \d+ 0 R", pdf_text(pdf))
    assert fonts and len(files_inside) == len(fonts)
    assert pdf_text(pdf).count("/Type /Page\n") == 2  # the page and its replacement
    assert "a title that must not be printed" not in drawn["redundancy", "89mm"]["svg"].decode()


@chromium
def test_svg_has_millimetres_and_its_proportions(drawn):
    for (name, size_name), made in drawn.items():
        svg = made["svg"].decode()
        head = svg[: svg.index(">")]
        width, height = re.search(r'width="([\d.]+)mm" height="([\d.]+)mm"', head).groups()
        box = [float(x) for x in re.search(r'viewBox="([^"]+)"', head)[1].split()]
        assert float(width) == pytest.approx(SIZES[size_name].width_mm, abs=0.01)
        assert float(height) / float(width) == pytest.approx(box[3] / box[2], abs=1e-3), name


@chromium
def test_text_is_seven_points_in_a_column_and_more_on_a_slide(drawn):
    """12 px of the layout, scaled with the page."""
    for name, points in (("89mm", 7), ("183mm", 7), ("slide", 16)):
        head = drawn["redundancy", name]["svg"].decode()
        units = float(re.search(r'viewBox="0 0 ([\d.]+)', head)[1])
        assert re.search(r"font-size: 12px", head)
        assert 12 * SIZES[name].width_mm / units * MM == pytest.approx(points, rel=1e-3)


@chromium
def test_png_is_300_dots_per_inch_and_says_so(drawn):
    from PIL import Image

    image = Image.open(io.BytesIO(drawn["redundancy", "89mm"]["png"]))
    assert abs(image.width - 89 / 25.4 * 300) <= 1
    assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)


@chromium
def test_no_label_is_cut_off(drawn):
    """Long labels, a title wider than its narrow panel: no ink on the outermost two pixels of any sample."""
    from PIL import Image

    for figure in FIGURES:
        image = np.asarray(Image.open(io.BytesIO(drawn[figure.name, "89mm"]["png"])).convert("RGB"), int)
        for edge in (image[:2], image[-2:], image[:, :2], image[:, -2:]):
            assert (edge >= 250).all(), figure.name
        assert (image < 128).any()


@chromium
def test_dark_only_when_asked():
    from PIL import Image

    dark = files.drawn_files(STRIP, "", ("png",), SIZES["89mm"], DARK)["png"]
    light = files.figure_file(STRIP, "", "png", "89mm")
    corner = [Image.open(io.BytesIO(data)).convert("RGB").getpixel((2, 2)) for data in (dark, light)]
    assert corner == [(16, 21, 26), (255, 255, 255)]


@chromium
def test_many_points_drawn_by_webgl_are_not_blank():
    from PIL import Image
    from analysis.theme import figure

    rng = np.random.default_rng(0)
    cloud = card("cloud", {"": lambda theme: figure(theme).add_scattergl(x=rng.normal(size=11_000), y=rng.normal(size=11_000), mode="markers")})
    image = np.asarray(Image.open(io.BytesIO(files.figure_file(cloud, "", "png"))).convert("RGB"), int)
    middle = image[image.shape[0] // 3 : -image.shape[0] // 3, image.shape[1] // 3 : -image.shape[1] // 3]
    assert (middle[..., 0] < 100).mean() > 0.3


@chromium
def test_a_wrong_figure_is_one_sentence_and_the_next_one_is_drawn():
    broken = files.job(drawing.draw(REDUNDANCY, "", SIZES["89mm"]), "t", ("svg",)) | {"figure": '{"data": 3}'}
    with pytest.raises(Refused, match="could not draw"):
        browser.shared().draw(broken)
    assert files.figure_file(REDUNDANCY, "", "svg").startswith(b"<svg")


def test_without_chromium_html_and_data_remain(monkeypatch):
    monkeypatch.setattr(browser, "find", lambda: None)
    assert "apt install chromium" in files.unavailable("pdf") and not files.unavailable("html") and not files.unavailable("csv")
    with pytest.raises(Refused, match="apt install chromium"):
        browser.Browser().draw({})
    assert b"Plotly.react" in files.figure_file(REDUNDANCY, "", "html")


def test_a_named_browser_that_is_not_there_is_not_replaced(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    assert browser.find() is None


def test_html_needs_no_network():
    for theme in (PRINT, DARK):
        text = files.html_page(SPANS, "B − A", theme).decode()
        assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)\s*=\s*[\"']?(https?:)?//", text, re.I)
        assert text.count("<script") == text.count("</script>") and "cdn.plot.ly" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
        assert all(f"> {view}</label>" in text for view in SPANS.views) and 'value="2" checked' in text and "show(2)" in text
        assert "A caption with numbers" in text and 'aria-label="What is seen."' in text and theme.page in text


def test_data_round_trips_whole():
    table = pa.table({
        "token": [' the', 'a "quoted", one\nand a line', "", None, "−ρ"], "count": pa.array([1, 2**53 + 1, None, -4, 0], pa.int64()),
        "loss": [0.1, 1 / 3, float("nan"), None, 1e-300], "score": pa.array([0.1, 1 / 3, 2.0, None, 7e-5], pa.float32()),
        "kept": [True, False, None, True, False], "kind": pa.array(["a", "b", "a", None, "b"]).dictionary_encode(),
        "blocks": pa.array([[3, 4], [], None, [1], [2]], pa.list_(pa.int64())),
    })
    figure = card("data", {"": heat_map})
    figure = type(figure)(**{**figure.__dict__, "data": table})
    assert pyarrow.parquet.read_table(io.BytesIO(files.figure_file(figure, "", "parquet"))).equals(table) or _same(table, figure)
    types = {"token": pa.string(), "count": pa.int64(), "loss": pa.float64(), "score": pa.float32(), "kept": pa.bool_(), "kind": pa.string(), "blocks": pa.string()}
    options = pyarrow.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
    back = pyarrow.csv.read_csv(io.BytesIO(files.figure_file(figure, "", "csv")), convert_options=options,
                                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
    for name in ("token", "count", "score", "kept"):
        assert back[name].to_pylist() == table[name].to_pylist(), name
    assert back["kind"].to_pylist() == ["a", "b", "a", None, "b"]
    assert back["blocks"].to_pylist() == ["[3, 4]", "[]", None, "[1]", "[2]"]
    assert [repr(x) for x in back["loss"].to_pylist()] == [repr(x) for x in table["loss"].to_pylist()]
    lines = [json.loads(line, parse_constant=pytest.fail) for line in files.figure_file(figure, "", "jsonl").decode().splitlines()]
    none = lambda x: None if isinstance(x, float) and not math.isfinite(x) else x
    assert lines == [{k: none(v) for k, v in row.items()} for row in table.to_pylist()] and len(lines) == 5


def _same(table, figure) -> bool:
    """Arrow calls NaN unequal to itself."""
    back = pyarrow.parquet.read_table(io.BytesIO(files.figure_file(figure, "", "parquet")))
    return back.schema.equals(table.schema) and [str(r) for r in back.to_pylist()] == [str(r) for r in table.to_pylist()]


def test_large_heat_map_keeps_its_extremes():
    values = np.zeros((1030, 700))
    values[517, 399], values[0, 0], values[-1, -1] = -5.0, 2.0, np.nan
    small = drawing.reduce_extreme(values, 3, 2)
    assert small.shape == (344, 350) and small[517 // 3, 399 // 2] == -5.0 and small[0, 0] == 2.0
    assert np.isnan(drawing.reduce_extreme(np.full((2, 2), np.nan), 2, 2)).all()

    made = drawing.draw(card("large", {"": lambda theme: heat_map(theme, 1030)}), "", SIZES["89mm"])
    trace = made.figure.data[0]
    assert np.shape(trace.z) == (344, 344) and (trace.xgap, trace.ygap) == (0, 0) and "344 × 344 cells" in made.notes[0]
    assert drawing.draw(SPANS, "", SIZES["89mm"]).notes == () and drawing.draw(SPANS, "", SIZES["89mm"]).figure.data[0].xgap is None


def test_axis_values_of_a_reduced_map_are_the_middles():
    assert drawing._thin(None, 5, 2) == [0.5, 2.5, 4.0]
    assert drawing._thin(("a", "b", "c"), 3, 2) == ["a", "c"]


def test_texts_outside_the_plot_keep_their_distance():
    """0.08 of the 276 px between the margins of a 344 px card, whatever the height of the page."""
    (note,) = drawing.draw(REDUNDANCY, "", SIZES["183mm"]).figure.layout.annotations
    assert note.y == 1 and note.yshift == pytest.approx(0.08 * (344 - 26 - 42))


def test_heights_follow_the_card():
    column = SIZES["89mm"]
    assert page(column, 344).height_mm / 89 == pytest.approx(344 / 520)
    flat = page(column, 344, wide=True)
    assert flat.height_px == pytest.approx(0.75 * 344)  # not squeezed until rows of labels collide
    assert flat.width_px / page(column, 344).width_px == pytest.approx(7 / 5.5)  # panels side by side get smaller text
    assert page(column, 2000).height_mm == pytest.approx(89 * 1.3)
    slide = page(SIZES["slide"], 344)
    assert (slide.width_mm / 25.4, slide.height_mm / 25.4) == pytest.approx((13.333, 7.5))


def test_names_and_unknown_words():
    assert files.file_name(SPANS, "B − A", "pdf") == "spans-b-minus-a.pdf" and files.file_name(SPANS, "B", "html") == "spans.html" and files.file_name(SPANS, "B", "csv") == "spans.csv"
    for call, said in ((lambda: size("90mm"), "not a size"), (lambda: files.figure_file(SPANS, "", "gif"), "not a format"),
                       (lambda: files.figure_file(SPANS, "C", "html"), "has no view “C”; it has A, B, B − A")):
        with pytest.raises(Refused, match=said):
            call()


def test_png_density_chunk_by_hand():
    """IHDR of a 1 × 1 image, then pHYs: 11,811 px per metre both ways, unit metre."""
    head = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x0dIHDR" + b"\0" * 17
    out = paper.set_png_density(head + b"rest", 300)
    assert out[33:41] == b"\0\0\0\x09pHYs" and struct.unpack(">IIB", out[41:50]) == (11811, 11811, 1) and out.endswith(b"rest")


def test_pdf_of_another_layout_is_not_touched():
    with pytest.raises(ValueError, match="one page"):
        paper.size_pdf(b"%PDF-1.7\nnothing known\n%%EOF\n", 89, 60)


def test_data_has_no_view_and_is_complete():
    assert pyarrow.csv.read_csv(io.BytesIO(files.figure_file(REDUNDANCY, "", "csv"))).num_rows == TABLE.num_rows


@chromium
def test_restarts_after_its_process_was_killed():
    own = browser.shared()
    line = files.job(drawing.draw(STRIP, "", SIZES["89mm"]), "t", ("svg",))
    own.draw(line)
    first = own._process.pid
    own._process.kill()
    own._process.wait()
    assert own.draw(line)["svg"].startswith(b"<svg")
    assert own._process.pid != first
    with pytest.raises(Refused, match="longer than"):
        own.draw(line, timeout=0.0)
    assert own._process is None  # a late one is ended, not left to answer the next question
