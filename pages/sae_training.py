"""Which dictionary of features does a site of this model hold?"""

from pages.shared.frame import page

page("sae_training")
