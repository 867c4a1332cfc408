"""Which blocks does the model not need?"""

from pages.shared.frame import page

page("layer_redundancy")
