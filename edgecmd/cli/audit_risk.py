"""``edgecmd audit risk``: level L4, membership inference and gradient inversion; indicators, never proof."""
