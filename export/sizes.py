"""What a printed size means. A figure is laid out at the screen's 12 px text and scaled as a whole, so that this text comes out
at the size's points and everything else (margins, markers, lines) keeps its proportion to it.

Widths: one and two columns of Nature's and most publishers' pages (89 and 183 mm), and a 16:9 slide of 13.33 × 7.5 inches; 5 pt is the least that they print.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.refusal import Refused

CARD, WIDE_CARD = 520, 1_090  # px that a figure has on screen at 1440 wide, in one column and across two
LOWEST = 0.75  # of its px on screen: flatter, and rows of labels run into each other
TALLEST = 1.3  # height / width; a page is filled
PX_PER_PT = 96 / 72
MM_PER_INCH = 25.4


@dataclass(frozen=True)
class Size:
    """`height_mm` is None where the height follows the card's shape. `text_pt` is the size of every 12 px text, `wide_pt` the
    same for cards that take two columns on screen: several panels side by side collide at 7 pt in one column."""

    name: str
    label: str
    width_mm: float
    text_pt: float
    wide_pt: float
    height_mm: float | None = None

    def points(self, wide: bool) -> float:
        return self.wide_pt if wide else self.text_pt


@dataclass(frozen=True)
class Page:
    """A size applied to one figure: the page in mm, and the px that plotly lays it out in."""

    width_mm: float
    height_mm: float
    width_px: float
    height_px: float


SIZES = {
    size.name: size
    for size in (
        Size("89mm", "89 mm", 89.0, 7.0, 5.5),
        Size("183mm", "183 mm", 183.0, 7.0, 7.0),
        Size("slide", "16:9 slide", 13.333 * MM_PER_INCH, 16.0, 14.0, 7.5 * MM_PER_INCH),
    )
}


def size(name: str) -> Size:
    """The size of that name; Refused with the known ones otherwise."""
    if name not in SIZES:
        raise Refused(f"“{str(name)[:20]}” is not a size; expected one of {', '.join(SIZES)}.")
    return SIZES[name]


def own_size(wide: bool) -> Size:
    """What a card is printed at where nobody chose: one column, or two for a wide one."""
    return SIZES["183mm" if wide else "89mm"]


def page(size: Size, height: float, wide: bool = False, text_px: float = 12) -> Page:
    """The page of a card `height` px tall on screen whose text is `text_px`."""
    scale = size.points(wide) * PX_PER_PT / text_px
    width_px = size.width_mm / MM_PER_INCH * 96 / scale
    if size.height_mm is not None:
        return Page(size.width_mm, size.height_mm, width_px, width_px * size.height_mm / size.width_mm)
    shape = min(max(height / (WIDE_CARD if wide else CARD), LOWEST * height / width_px), TALLEST)
    return Page(size.width_mm, size.width_mm * shape, width_px, width_px * shape)
