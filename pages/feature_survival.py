"""Which features does the compression lose, gain or distort?"""

from pages.shared.frame import page

page("feature_survival")
