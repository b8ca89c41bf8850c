"""edgecmd: federated contrastive cross-modality distillation, from unlabelled pairs to a device."""

__version__ = "0.1.0"
