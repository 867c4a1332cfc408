"""Does each image get a code of its own, and what does the code alone know?"""

from pages.shared.frame import page
from pages.shared.image_file import section

page("hash_codes_lab", below=section)
