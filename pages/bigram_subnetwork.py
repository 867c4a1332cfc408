"""Which few weights are enough to turn a token into its usual successor?"""

from pages import bigram_section
from pages.shared.frame import page

page("bigram_subnetwork", below=bigram_section.draw)
