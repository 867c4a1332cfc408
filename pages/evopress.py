"""Which matrices can do with less, at the same number of bits?"""

from pages.shared.frame import page

page("evopress")
