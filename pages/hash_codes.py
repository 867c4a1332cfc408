"""Which units does each token switch on, and what does the pattern alone know?"""

from pages.shared.frame import page

page("hash_codes")
