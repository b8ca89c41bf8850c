"""Signing a bundle with your own key, offline, through the OpenSSF model-signing library.

The signature lists the SHA-256 of every file of the bundle, SHA256SUMS among them (an in-toto statement in a
Sigstore bundle v0.3). No network is used: the key is a plain elliptic-curve key in a PEM file.
"""

import base64
import binascii
import contextlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import sha256_file
from export.trust.contents import parse_json, read_json
from export.trust.errors import AGAIN, TrustError
from export.trust.listing import CACHE, SIGNATURE

INSTALL = "Signing needs extra packages: pip install 'edgecmd[sign]'."
MAKE_KEY = (
    "Make one with `openssl ecparam -name prime256v1 -genkey -noout -out key.pem` and its public part with"
    " `openssl ec -in key.pem -pubout -out key.pub`."
)


def sign_bundle(folder: Path, key: Path) -> Path:
    """Sign every file of a bundle; an older signature is replaced.

    What Python compiled beside infer.py (``__pycache__``) is not a part of the bundle and is not covered.

    Args:
        folder: The bundle.
        key: Private elliptic-curve key (P-256, P-384 or P-521) in a PEM file without a password.

    Returns:
        The signature's path, ``bundle.sig`` in the folder.

    Guarantees:
        Nothing is sent anywhere. The signature holds no path of this machine, only names and digests. When
        this raises, an older signature is as it was.

    Raises:
        ConfigError: The packages are missing, or the key cannot be used.
    """
    signing, hashing, _ = _library()
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / SIGNATURE
        config = signing.Config().set_hashing_config(_hashing(hashing))
        try:
            config.use_elliptic_key_signer(private_key=key).sign(folder, target)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{folder} cannot be signed with {key}: {error}. {MAKE_KEY}") from error
        content = target.read_bytes()
    return write_artefact(folder, SIGNATURE, content, may_leave=True, place="bundle")


def verify_signature(folder: Path, pub: Path) -> None:
    """Check that the owner of a key signed a bundle, with exactly these files.

    Args:
        folder: The bundle, with ``bundle.sig``.
        pub: Public elliptic-curve key in a PEM file, got from the maker by another way than the bundle.

    Raises:
        TrustError: There is no signature, it is by another key, or of other files.
        ConfigError: The packages are missing, or the key cannot be used.
    """
    _, hashing, verifying = _library()
    refuse_other_files(folder)
    config = verifying.Config().set_hashing_config(_hashing(hashing))
    try:
        config.use_elliptic_key_verifier(public_key=pub)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{pub} is not a usable public key: {error}. {MAKE_KEY}") from error
    try:
        # The library prints a warning about signatures of an older form.
        with contextlib.redirect_stdout(io.StringIO()):
            config.verify(folder, folder / SIGNATURE)
    except Exception as error:  # a wrong key, a wrong signature and a broken file have no common base
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrustError(f"{SIGNATURE} was not made with the key of {pub}: {reason}. {AGAIN}") from error


def refuse_other_files(folder: Path) -> int:
    """Compare the digests in a signature with the files, without asking who signed.

    Returns:
        Number of files.

    Raises:
        TrustError: The signature is broken, or lists other files than the folder has.
    """
    signed = signed_digests(folder / SIGNATURE)
    found = {path.name: sha256_file(path) for path in folder.iterdir() if path.name != SIGNATURE}
    for name in sorted(set(signed) | set(found)):
        if signed.get(name) != found.get(name):
            raise TrustError(
                f"{SIGNATURE} was made for other files: {name[:80]!r} is"
                f" {_state(signed, name)} in it and {_state(found, name)} in the bundle. {AGAIN}"
            )
    return len(found)


def _state(digests: Mapping[str, str], name: str) -> str:
    return f"{digests[name][:16]!r}..." if name in digests else "missing"


def signed_digests(path: Path) -> dict[str, str]:
    """SHA-256 of each file that a signature lists. Says nothing about who made it.

    Raises:
        TrustError: There is no signature, or it is not of the form that model-signing writes.
    """
    if not path.is_file():
        raise TrustError(
            f"The bundle has no {SIGNATURE}. Ask its maker to sign it, or verify it without --pub."
        )
    envelope = read_json(path)
    try:
        payload = base64.b64decode(envelope["dsseEnvelope"]["payload"], validate=True)
        statement = parse_json(payload.decode())
        resources = statement["predicate"]["resources"]
        if any(one["algorithm"] != "sha256" for one in resources):
            raise ValueError("an algorithm is not sha256")
        digests = {str(one["name"]): str(one["digest"]) for one in resources}
    except (KeyError, TypeError, ValueError, binascii.Error, RecursionError) as error:
        raise TrustError(f"{path.name} is not a signature of a bundle: {error!r:.200}. {AGAIN}") from error
    if len(digests) != len(resources):
        raise TrustError(f"{path.name} lists a file twice; allowed is once. {AGAIN}")
    return digests


def _hashing(hashing: Any) -> Any:  # noqa: ANN401 - the library is optional
    """Every file but the signature and what Python compiled, also those of git; no link."""
    plain = hashing.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return plain.set_ignored_paths(paths=[Path(SIGNATURE), Path(CACHE)], ignore_git_paths=False)


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from error
    return signing, hashing, verifying
