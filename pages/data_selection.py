"""Which training samples does this model find most like my task, and why?"""

from pages import selection_section
from pages.shared.frame import page

page("data_selection", below=selection_section.draw)
