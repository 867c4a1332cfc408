"""What did the compression cost?"""

from pages.shared.frame import page

page("compression_cost")
