"""Which few heads fetch the operands, and which MLPs turn them into the answer?"""

from pages.shared.frame import page

page("arithmetic_heads")
