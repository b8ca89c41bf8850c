"""Losses of contrastive distillation: pure functions, and `LOSSES`, the table of what settings can name.

A loss of your own is a subclass of `Loss`.
"""

from edgecmd.losses.check import check_loss
from edgecmd.losses.contrastive import (
    Anchors,
    Embeddings,
    PerExample,
    cmc,
    cmc_anchored,
    cmc_bucket,
    cmc_groups,
    cmd,
    cmd_anchored,
    log_relations,
    same_source,
    unit,
)
from edgecmd.losses.loss import Loss, alike_views
from edgecmd.losses.table import (
    CMC,
    CMD,
    CRD,
    L2,
    LOSSES,
    SEED,
    SOCKET,
    CMCAnchored,
    CMCAndCMD,
    CMCAndCMDAnchored,
    CMCGroups,
    CMDAnchored,
    Cosine,
    SimCLR,
    loss_of,
    name_of,
)

__all__ = [
    "CMC",
    "CMD",
    "CRD",
    "L2",
    "LOSSES",
    "SEED",
    "SOCKET",
    "Anchors",
    "CMCAnchored",
    "CMCAndCMD",
    "CMCAndCMDAnchored",
    "CMCGroups",
    "CMDAnchored",
    "Cosine",
    "Embeddings",
    "Loss",
    "PerExample",
    "SimCLR",
    "alike_views",
    "check_loss",
    "cmc",
    "cmc_anchored",
    "cmc_bucket",
    "cmc_groups",
    "cmd",
    "cmd_anchored",
    "log_relations",
    "loss_of",
    "name_of",
    "same_source",
    "unit",
]
