"""Do two networks learn the same units?"""

from pages.shared.frame import page

page("convergent_learning")
