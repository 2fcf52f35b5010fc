"""What several test files share."""
from models.p_ieanet import PIEANetConfig

SMALL = PIEANetConfig(width=16, depth=1, context=1, structure_widths=(4, 8, 8), token_width=8, heads=2)
