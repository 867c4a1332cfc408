"""Are two perceptrons trained apart the same one with its units renamed?"""

from pages.shared.frame import page
from pages.shared.image_file import section

page("alignment_lab", below=section)
