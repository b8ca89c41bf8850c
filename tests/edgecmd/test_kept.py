"""What was asked for last stays, up to a number or a weight."""

from edgecmd.core.kept import Kept


def test_the_newest_stay_within_the_weight() -> None:
    kept, made = Kept[str, str](10, weigh=len), list[str]()

    def get(key: str, length: int) -> str:
        def make() -> str:
            made.append(key)
            return "x" * length

        return kept.get(key, make)

    get("a", 4)
    get("b", 4)
    get("a", 0)
    get("c", 6)
    assert made == ["a", "b", "c"]
    assert get("a", 0) == "xxxx"
    get("b", 4)
    assert made == ["a", "b", "c", "b"]


def test_one_that_is_too_heavy_is_kept_until_the_next() -> None:
    kept, made = Kept[int, str](3, weigh=len), list[int]()

    def make() -> str:
        made.append(len(made))
        return "x" * 9

    for key in (1, 1, 2, 1):
        kept.get(key, make)
    assert len(made) == 3
