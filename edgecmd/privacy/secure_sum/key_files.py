"""A node's own key, and the list of the keys of all nodes, from the files of a kit."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from edgecmd.privacy.secure_sum.identities import PinnedKeys, RegisteredIdentity, key_name
from edgecmd.privacy.secure_sum.terms import refused


def read_identity(path: Path) -> RegisteredIdentity:
    """A node's own key from its file, in OpenSSH's form as in the kit.

    Raises:
        PrivacyError: It cannot be read, or is no key of that curve without a password.
    """
    try:
        key = load_ssh_private_key(_read(path, "own-key"), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise ValueError("it is not on the elliptic curve P-384")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        told = f"own-key={str(path)!r} is no private key: {error}. Name the node.key of the kit."
        raise refused(told, "node-config") from error
    return RegisteredIdentity(key=key)


def read_pinned(path: Path) -> PinnedKeys:
    """The pinned public keys from a file with a key in OpenSSH's form on each line.

    Raises:
        PrivacyError: It cannot be read, holds no key, or a line that is none.
    """
    lines = [line for line in _read(path, "peer-keys").splitlines() if line.strip()]
    try:
        keys = [_public(line) for line in lines]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise refused(
            f"peer-keys={str(path)!r} holds a line that is no public key on P-384: {error}. Use the file of"
            " the kit.",
            "node-config",
        ) from error
    if not keys:
        raise refused(f"peer-keys={str(path)!r} holds no key. Use the file of the kit.", "node-config")
    return PinnedKeys(keys={key_name(key): key for key in keys})


def _public(line: bytes) -> ec.EllipticCurvePublicKey:
    key = load_ssh_public_key(line)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError("another kind of key")
    return key


def _read(path: Path, key: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise refused(f"{key}={str(path)!r} cannot be read: {error.strerror}.", "node-config") from error
