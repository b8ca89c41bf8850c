"""Level L4: what attacks find; indicators, never proof."""
