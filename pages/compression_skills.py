"""Which skills did the compression take?"""

from pages.shared.frame import page

page("compression_skills")
