"""Is what the model has by heart kept in one small subspace?"""

from pages.shared.frame import page

page("memorization_subspace")
