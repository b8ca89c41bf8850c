"""A made-up folder of stamps: six pictures, names in three languages, and everything that can be wrong."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from tests.made_up_sound import tone, write_wav

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt"'
    ' viewBox="0 0 {width} {height}">'
    '<rect width="{width}" height="{height}" fill="{fill}"/></svg>'
)
NAMES = ("animals/birds/owl", "animals/cow", "animals/toys/cow2", "food/pie", "food/plum", "symbols/math/7")
LANGUAGES = ("fr", "ro", "ru")


def write_ogg(path: Path, shares: np.ndarray, *, rate_hz: int = 44100) -> Path:
    """Vorbis; (T,) or (T, K)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, shares, rate_hz, format="OGG", subtype="VORBIS")
    return path


def write_stamps(folder: Path) -> Path:
    """Stamps as Tux Paint keeps them, below ``folder``/tuxpaint/stamps; each name is a pitch of its own."""
    root = folder / "tuxpaint" / "stamps"
    for number, name in enumerate(NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            picture = Image.new("RGBA", (40, 20), (30 * number, 0, 200, 255))
            picture.save(path.with_suffix(".png"))
        else:
            text = SVG.format(width=20, height=40, fill=f"#{number}{number}c")
            path.with_suffix(".svg").write_text(text)
        title = "A cow." if "cow" in name else f"{path.name.capitalize()}!"
        path.with_suffix(".txt").write_text(f"{title}\nfr.utf8=Une {path.name}\n")
        for voice, language in enumerate(LANGUAGES):
            pitch = 300.0 + 150.0 * number + 20.0 * voice
            write_ogg(
                Path(f"{path}_desc_{language}.ogg"), tone(pitch, rate_hz=44100, seconds=0.3 + 0.2 * voice)
            )
    return _add_oddities(root)


def _add_oddities(root: Path) -> Path:
    # A sound, and a number in the languages of its own way of naming.
    write_wav(root / "animals/cow.wav", tone(200.0))
    write_wav(root / "symbols/math/7.wav", tone(210.0))
    write_wav(root / "symbols/math/7_zh_tw.wav", tone(220.0))
    write_wav(root / "food/pie_desc.wav", tone(230.0, seconds=3.0))
    write_ogg(root / "food/plum_desc_da.ogg.ogg", tone(240.0, rate_hz=44100))
    # What is left out.
    (root / "animals/birds/owl_mirror.svg").write_text((root / "animals/birds/owl.svg").read_text())
    write_wav(root / "animals/nobody_desc_fr.wav", tone(250.0))
    write_wav(root / "food/pie_desc_es.wav", np.sign(tone(260.0)))
    write_wav(root / "food/plum_desc_es.wav", np.zeros(4000))
    (root / "food/plum_desc_el.ogg").write_bytes(b"OggS, but not really")
    Image.new("RGBA", (9, 9), (255, 255, 255, 255)).save(root / "food/snow.png")
    write_wav(root / "food/snow_desc_fr.wav", tone(270.0))
    (root / "food/torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_wav(root / "food/torn_desc_fr.wav", tone(280.0))
    return root
