"""Unseen strings of the set ``words``, by language and script, and what finds emoji without a student.

``python -m tests.words_scores baselines --set data.split=string``: character n-grams and others, which read
all training strings in one place. ``python -m tests.words_scores FILE --set ...``: a trained student.

Shapes: N questions, M emoji, T training strings, D embedding dimension.
"""

import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.config.schema import RunConfig
from edgecmd.data.experiment import Experiment
from edgecmd.data.modalities.table import target_input
from edgecmd.data.modalities.text import decode_strings, folded
from edgecmd.datasets.words import read_names
from edgecmd.evaluation.metrics import first_ranks
from edgecmd.models.student_file import load_student

# Questions at a time, the power of a vote, and how many of the nearest strings are looked at.
ROWS, POWER, NEAREST = 500, 6, 100
# From how many agreeing pairs on a group of questions begins, and its name; padded, these sort by number.
AGREEING = (1, 3, 10, 30, 100)
AGREEING_NAMES = ("0", "1 to 2", "3 to 9", "10 to 29", "30 to 99", "100 or more")
LONGEST_NAME = len(AGREEING_NAMES[-1])
WORD = re.compile(r"[\s\W_]+")
# First word of a letter's Unicode name -> what its script is called here.
SCRIPTS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}


def script_of(text: str) -> str:
    """Script of the first letter; ``none`` for a string without one."""
    letters = (one for one in text if one.isalpha())
    name = unicodedata.name(next(letters, " "), "SPACE").partition(" ")[0]
    return SCRIPTS.get(name, "none" if name == "SPACE" else name.capitalize())


def words_of(text: str) -> list[str]:
    """What is between spaces and marks."""
    return [one for one in WORD.split(text) if one]


def questions(data: Experiment) -> tuple[list[str], csr_array]:
    """Test strings without case, (N,), and which emoji are right for each, (N, M)."""
    assert data.test.right is not None
    return [folded(one) for one in decode_strings(np.asarray(data.test.pairs.target))], data.test.right


def training(data: Experiment) -> tuple[list[str], csr_array]:
    """Training strings without case, (T,), and in how many languages each names each emoji, (T, M)."""
    texts = [folded(one) for one in decode_strings(np.asarray(data.train.target))]
    strings, place = np.unique(texts, return_inverse=True)
    assert data.test.right is not None
    assert data.copies is not None
    emoji = data.copies.source[: len(data.train)]
    num = data.test.right.shape[1]
    return strings.tolist(), csr_array((np.ones(len(place)), (place, emoji)), shape=(len(strings), num))


def ranks(score_NM: Float[np.ndarray, "num emoji"], right_NM: csr_array) -> np.ndarray:
    """Rank of the first right emoji from 1; of equal scores half of the others come first."""
    is_right = right_NM.toarray().astype(bool)
    mine = np.where(is_right, score_NM, -np.inf).max(axis=1, keepdims=True)
    more, level = ((found & ~is_right).sum(axis=1) for found in (score_NM > mine, score_NM == mine))
    return np.asarray(1 + more + level // 2)


def without_a_word(asked: Sequence[str], strings: Sequence[str]) -> np.ndarray:
    """Which of the strings asked for have no word that a training string has, (N,)."""
    heard = {word for one in strings for word in words_of(one)}
    return np.array([not any(word in heard for word in words_of(one)) for one in asked])


def agreeing(
    asked: Sequence[str], right_NM: csr_array, strings: Sequence[str], counts_TM: csr_array
) -> np.ndarray:
    """How many training pairs share a word with the question and show what is right for it, (N,).

    Of a question that one pair alone could teach, a private student knows nothing; this says of how many.
    """
    words = CountVectorizer(tokenizer=words_of, token_pattern=None, lowercase=False)
    known_TV, asked_NV = (csr_array(one) for one in (words.fit_transform(strings), words.transform(asked)))
    shares_NT = (asked_NV @ known_TV.T > 0).astype(float)
    return np.asarray((shares_NT @ counts_TM).multiply(right_NM).sum(axis=1)).ravel().astype(int)


def say(name: str, found: np.ndarray, unheard: np.ndarray) -> None:
    """A row: R@1 and R@10 of all, and of the strings of which training has no word."""
    cells = (np.mean(part <= at) for part in (found, found[unheard]) for at in (1, 10))
    sys.stdout.write("  ".join([f"{name:<42}", *(f"{cell:.3f}" for cell in cells)]) + "\n")


def baselines(data: Experiment) -> None:
    """Print what needs no student."""
    asked, right = questions(data)
    strings, counts = training(data)
    unheard = without_a_word(asked, strings)
    sys.stdout.write(
        f"{len(data.train)} pairs of {len(strings)} strings; {len(asked)} questions, {unheard.mean():.3f} of"
        f" them without a word of training\n{'R@1, R@10; of those without a word':<42}\n"
    )
    frequent = np.tile(counts.sum(axis=0), (len(asked), 1))
    say("most frequent emoji", ranks(frequent, right), unheard)
    has = csr_array(counts > 0).astype(np.float32)
    for name, options in {
        "words": {"tokenizer": words_of, "token_pattern": None},
        "letters 1 to 4": {"analyzer": "char_wb", "ngram_range": (1, 4)},
        "letters 2 to 5": {"analyzer": "char_wb", "ngram_range": (2, 5)},
    }.items():
        table = TfidfVectorizer(sublinear_tf=True, **options)
        known, new = (
            csr_array(one).astype(np.float32)
            for one in (table.fit_transform(strings), table.transform(asked))
        )
        for way in ("nearest string", "all strings vote"):
            found = []
            for start in range(0, len(asked), ROWS):
                near = csr_array(new[start : start + ROWS] @ known.T)
                found.append(ranks(_scores(near, has, way), right[start : start + ROWS]))
            say(f"TF-IDF, {name}, {way}", np.concatenate(found), unheard)


def _scores(near_NT: csr_array, has_TM: csr_array, way: str) -> Float[np.ndarray, "num emoji"]:
    """Of each emoji the similarity of its nearest string, or the sum of a power of all."""
    if way == "all strings vote":
        return np.asarray((near_NT.power(POWER) @ has_TM).todense())
    found = np.zeros((near_NT.shape[0], has_TM.shape[1]), dtype=np.float32)
    for row in range(near_NT.shape[0]):
        mine = near_NT[[row]]
        order = np.argsort(mine.data)[-NEAREST:]
        for place, value in zip(mine.indices[order], mine.data[order], strict=True):
            # In rising order, so that the nearest string of an emoji comes last.
            found[row, has_TM.indices[has_TM.indptr[place] : has_TM.indptr[place + 1]]] = value
    return found


def trained(path: Path, config: RunConfig) -> None:
    """Print R@1 and R@10 of a student by language and script."""
    task = Assembly().task(config)
    data = task.data
    student = load_student(path).eval()
    asked, right = questions(data)
    inputs = target_input(np.asarray(data.test.pairs.target), offset=0.0, scale=1.0)
    with torch.no_grad():
        found = torch.cat([student(one) for one in inputs.split(1000)])
    unit = torch.nn.functional.normalize(found, dim=1).numpy()
    rank = first_ranks(unit, task.gallery_features("test"), right)
    names = read_names(num_bytes=config.data.text_bytes)
    spoken: dict[str, set[str]] = {}
    for string, language in zip(names.string, names.language, strict=True):
        spoken.setdefault(names.keys[string], set()).add(names.languages[language])
    _table("language", [sorted(spoken[one]) for one in asked], rank)
    _table("script", [[script_of(one)] for one in asked], rank)
    _table("languages that have it", [[str(min(len(spoken[one]), 5))] for one in asked], rank)
    strings, counts = training(data)
    unheard = without_a_word(asked, strings)
    _table("has a word of training", [["no" if one else "yes"] for one in unheard], rank)
    how_many = np.searchsorted(AGREEING, agreeing(asked, right, strings, counts), side="right")
    groups = [[AGREEING_NAMES[one].rjust(LONGEST_NAME)] for one in how_many]
    _table("pairs that share a word with it and are right", groups, rank)
    _table("all", [["all"] for _ in asked], rank)


def _table(title: str, groups: Sequence[Sequence[str]], rank: np.ndarray) -> None:
    sys.stdout.write(f"{title}: questions, R@1, R@10\n")
    for name in sorted({one for of_one in groups for one in of_one}):
        mine = rank[[name in of_one for of_one in groups]]
        sys.stdout.write(f"  {name:<12} {len(mine):6d} {np.mean(mine <= 1):.3f} {np.mean(mine <= 10):.3f}\n")


if __name__ == "__main__":
    what, *settings = sys.argv[1:]
    asked_for = load_config(None, ["data.name=words", *(one for one in settings if one != "--set")])
    if what == "baselines":
        baselines(Assembly().experiment(asked_for.data))
    else:
        trained(Path(what), asked_for)
