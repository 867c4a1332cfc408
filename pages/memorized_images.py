"""Is what an image generator has by heart kept in few weights?"""

from pages.images_section import draw
from pages.shared.frame import page

page("memorized_images", below=draw)
