"""The set ``emoji-full``: the pairs of ``emoji``, and those of OpenMoji and EmojiOne.

Kind: real. OpenMoji's drawing is the line layer of its image, so the image is by default what is
left without that layer. OpenMoji is CC BY-SA 4.0 and therefore not part of edgecmd: the set is built on
the user's machine (`edgecmd.datasets.build.emoji_full`). The public set and the teacher are those of
``emoji``: a concept of the public set is always in training.
"""

from edgecmd.data.experiment import Experiment
from edgecmd.datasets.emoji import emoji_experiment
from edgecmd.datasets.pinned import read_built
from edgecmd.settings import DataConfig

NAME, KIND = "emoji-full", "real"
PAIRS = "pairs"


def load_emoji_full(config: DataConfig) -> Experiment:
    """Load the built set; settings, result and errors are those of `edgecmd.datasets.emoji.load_emoji`.

    Raises:
        ConfigError: ``image_size`` does not divide 64.
        DataError: The set is not built, or a file of it is damaged.

    Guarantees:
        A concept that ``emoji`` has is in the same part here; one of the public set is in training.
    """
    return emoji_experiment(lambda: read_built(NAME, PAIRS), config, name=NAME)
