"""As much of torchvision's interface as edgecmd calls."""

from torchvision import models

__all__ = ["models"]
