"""Which features does the compression lose, gain or distort?"""

from pages import sae_section
from pages.shared.frame import page

page("feature_survival", below=sae_section.draw)
