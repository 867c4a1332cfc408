"""Where did the compression hurt?"""

from pages.shared.frame import page

page("sensitivity")
