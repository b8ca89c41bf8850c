"""A blind baseline: can members be told from others without the model, by their words alone?

Where they can, an attack's success is no sign of a leak (Das, Zhang and Tramer 2024, arXiv 2406.16201).

Shapes: N pairs.
"""

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

from edgecmd.audits.risk.candidates import Pool
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.modalities.table import modality_of

NUM_FOLDS, LONGEST, NUM_FEATURES, PASSES = 5, 3, 2**18, 4


def blind_scores(pool: Pool, *, seed: int) -> Float[np.ndarray, " num"] | None:
    """How much each target looks like a member, by a logistic regression that has not seen it.

    Its features are hashed runs of one to three letters; it is fitted on the other four of five parts, into
    which groups are dealt as a whole.

    Args:
        pool: Pairs, and who is a member.
        seed: Of the parts.

    Returns:
        Log-odds, (N,); None where targets are no words.
    """
    words = modality_of(np.asarray(pool.target[:1])).as_words
    if words is None:
        return None
    texts = words(np.asarray(pool.target))
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(1, LONGEST), n_features=NUM_FEATURES)
    features, codes = letters.transform(texts), np.unique(pool.group, return_inverse=True)[1].reshape(-1)
    coins = numpy_generator(seed, "blind-folds")
    fold = coins.integers(0, NUM_FOLDS, int(codes.max()) + 1)[codes]
    scores = np.zeros(len(pool))
    for part in range(NUM_FOLDS):
        fitted, asked = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        if len(np.unique(pool.member[fitted])) < 2 or not len(asked):
            continue
        model = SGDClassifier(loss="log_loss", max_iter=PASSES, tol=None, random_state=0)
        model.fit(features[fitted], pool.member[fitted])
        # Only the order within a part is compared: its own mean is what the fit makes of the shares.
        odds = model.decision_function(features[asked])
        scores[asked] = odds - odds.mean()
    return scores
