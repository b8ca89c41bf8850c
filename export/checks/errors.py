"""The error of all checks of a bundle."""

from edgecmd.errors import ExportError

AGAIN = "Get the bundle again from its maker, or make it again with `edgecmd export`."


class TrustError(ExportError):
    """A bundle is not what it claims to be; its model was not used."""
