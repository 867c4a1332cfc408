"""Which chain of blocks does the same work?"""

from pages.shared.frame import page

page("chain_search")
