"""What does a merge keep of its parents?"""

from pages.merging_section import draw
from pages.shared.frame import page

page("merging", below=draw)
