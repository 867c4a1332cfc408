"""What does each feature of a sparse autoencoder stand for, and what does it do?"""

from pages import feature_section
from pages.shared.frame import page

page("feature_browser", below=feature_section.draw)
