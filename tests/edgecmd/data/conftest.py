"""What the tests of data share."""

from collections.abc import Callable, Iterator
from functools import cache

import pytest

from edgecmd.data.pairs import PublicSource
from edgecmd.datasets import emoji


@pytest.fixture(autouse=True, scope="module")
def public_pictures_once() -> Iterator[None]:
    """The built-in public pictures are read and shrunk once a size: they were half of each folder's time."""
    load = emoji.load_public

    @cache
    def known(reader: Callable[..., object], image_size: int) -> PublicSource:
        found = load(image_size=image_size)
        found.images.setflags(write=False)
        return found

    def kept(*, image_size: int = emoji.SIDE) -> PublicSource:
        # A test that puts other pictures into the place of the file gets those.
        return known(emoji.read_shipped, image_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "load_public", kept)
        yield
