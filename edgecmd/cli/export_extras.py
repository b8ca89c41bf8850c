"""What ``edgecmd export`` puts beside a bundle on request: a page for a browser, a signature."""

from pathlib import Path

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError

NUM_PICTURES = 640


def check_extras(*, web: str | None, ort_web: Path | None, key: Path | None) -> None:
    """Refuse what could not be made, before anything is exported.

    Raises:
        ConfigError: The mode is unknown, or the key is missing.
        ExportError: There is no onnxruntime-web for a page.
    """
    from edgecmd.cli.web import MODES
    from edgecmd.core.errors import nearest
    from export.web.ortweb import find_ort_web

    if web is not None:
        if web not in MODES:
            raise ConfigError(f"--web={web!r} is unknown. {nearest(web, MODES)}")
        find_ort_web(ort_web)
    if key is not None and not key.is_file():
        raise ConfigError(
            f"--sign={key} is missing or not a file. Make a key with `openssl ecparam -name prime256v1"
            f" -genkey -noout -out {key}`."
        )


def add_page(config: RunConfig, folder: Path, bundle: Path, *, mode: str, ort_web: Path | None) -> Path:
    """Build the page: ``single`` into the bundle, whose sums are renewed; ``folder`` beside it.

    Args:
        config: Settings of the run.
        folder: Run folder.
        bundle: A bundle that was just made.
        mode: ``single`` or ``folder``.
        ort_web: Folder of onnxruntime-web, or None to look for it.
    """
    from edgecmd.cli.web import build_page, pictures_of
    from export.documents.bundle_files import PAGE, write_sums

    out = bundle / PAGE if mode == "single" else folder / "web"
    pictures = pictures_of(config, folder=None, num_pictures=NUM_PICTURES)
    report = build_page(bundle, out, mode=mode, ort_web=ort_web, pictures=pictures)
    if mode == "single":
        write_sums(bundle)
    return report.path


def sign_bundle(bundle: Path, key: Path) -> Path:
    """Sign a bundle; see `export.documents.sign.sign_bundle`."""
    from export.documents.sign import sign_bundle as sign

    return sign(bundle, key)
