"""Kinds of inputs: one module and one row of `edgecmd.data.modalities.table.MODALITIES` each."""
