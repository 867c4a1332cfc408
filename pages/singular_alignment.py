"""Are two networks the same one with its units renamed?"""

from pages.shared.frame import page

page("singular_alignment")
