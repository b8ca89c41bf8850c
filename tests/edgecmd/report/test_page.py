"""The whole page: what it holds, what it must never hold, and what happens when files are missing."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgecmd.core.errors import DataError
from edgecmd.core.files import read_json, write_json, write_text_atomically
from edgecmd.report import page, write_report

ANCHORS = (
    "results",
    "training",
    "labels",
    "classes",
    "retrieval",
    "privacy",
    "audit",
    "partition",
    "costs",
    "dropped",
    "export",
    "settings",
    "environment",
    "limits",
)
FIGURES = ("few_labels", "loss", "partition", "retrieval", "validation")
VOID = {"meta", "link", "img", "br", "input"}
SVG_LEAVES = {"path", "use", "rect"}


class Page(HTMLParser):
    """Tags with their attributes, the text of the page, and what is not closed properly."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


EVIL = (
    "<script>alert('x')</script>",
    "{{ run.name }} {% include 'page.html' %} {# hidden #} {{ ''.__class__ }}",
    """x" onload="y' onmouseover='z' ><img src=x onerror=alert(1)>""",
    "javascript:alert(1)",
    "</td></table></section></main></style>&lt;b&gt;&amp;",
)


def spelt_out(text: str) -> str:
    """A text as HTML writes it, by the five characters that mean something."""
    names = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"}
    return "".join(names.get(one, one) for one in text)


def harmless(page: Page) -> bool:
    """No handler, no address but fragments and pictures inside the page."""
    attributes = [one for _, found in page.tags for one in found.items()]
    targets = [value or "" for name, value in attributes if name in ("href", "src", "action", "xlink:href")]
    return not any(name.startswith("on") for name, _ in attributes) and all(
        one.startswith(("#", "data:image/png;base64,")) or one == "data:," for one in targets
    )


def html_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def section(source: str, anchor: str) -> str:
    """Text of one section."""
    start = source.index(f'<section id="{anchor}"')
    return Page(source[start : source.index("</section>", start) + len("</section>")]).text


def test_every_section_is_there_and_linked(source):
    page = Page(source)
    assert [one["id"] for one in page.all("section")] == list(ANCHORS)
    assert [one["href"] for one in page.all("a")] == ["#results", *(f"#{anchor}" for anchor in ANCHORS)]
    assert page.open == []


def test_every_section_has_its_template_and_no_other_is_left():
    folder = Path(page.__file__).with_name("templates") / "sections"
    assert sorted(one.stem for one in folder.iterdir()) == sorted(ANCHORS)


def test_each_chart_is_also_a_png_and_nothing_else_is_left(reported):
    written = sorted((reported / "figures").iterdir())
    assert [path.stem for path in written] == list(FIGURES)
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in written)
    assert not list(reported.rglob("*.tmp"))


def test_title_and_summary(source):
    assert "<title>demo - edgecmd report</title>" in source
    assert "<h1>demo</h1>" in source
    assert "first for a share of 0.412 of 786 test targets" in source
    assert "(chance 0.001); the highest baseline, l2, has 0.287." in source


def test_every_number_of_the_main_table_is_the_one_in_the_file(source, numbers):
    text = section(source, "results")
    for table in (numbers["student"], *numbers["baselines"].values()):
        shown = [*table.get("retrieval", {}).values()]
        shown += [table["retrieval_strict"]["recall@1"]] if "retrieval_strict" in table else []
        shown += [table["one_shot"]["one_shot"], table["one_shot"]["chance"]] if "one_shot" in table else []
        rows = table["few_labels"]["group"]["linear"].values()
        shown += [row["mean"] for row in rows]
        assert [f"{one:.3f}" for one in shown if f"{one:.3f}" not in text] == []
        halves = [f"± {(row['high'] - row['low']) / 2:.3f}" for row in rows if row["num"] > 1]
        assert halves
        assert [one for one in halves if one not in text] == []


def test_rows_stand_beside_their_method(source, numbers):
    text = section(source, "results")
    expected = [f"{numbers['baselines']['l2']['retrieval'][f'recall@{at}']:.3f}" for at in (1, 5, 10)]
    assert re.search(r"\bl2 " + " ".join(map(re.escape, expected)), text)


def test_results_by_class_are_those_of_a_hand_calculation(source):
    """30 of 40 and 6 of 30 are right; 48, 16 and 6 were taken for the three classes."""
    text = section(source, "classes")
    assert "group : 0.514 of 70 test items of unseen concepts are right." in text
    # Wilson's interval of 30 of 40: (30 + z²/2 ± z sqrt(30·10/40 + z²/4)) / (40 + z²) with z = 1.96.
    assert "Smileys 9 40 0.625 0.750 0.598 to 0.858" in text
    assert "People 7 30 0.375 0.200" in text
    assert "Animals 2 0 0.000 \u2013" in text
    assert "1 Smileys 30 10 0 2 People 18 6 6 3 Animals 0 0 0" in text
    assert "People Smileys 18 0.600 Smileys People 10 0.250 People Animals 6 0.200" in text
    start = source.index("matrix")
    shades = re.findall(r"--part: ([\d.]+)", source[start:])
    assert shades == ["0.750", "0.250", "0.000", "0.600", "0.200", "0.200", "0.000", "0.000", "0.000"]


@pytest.mark.usefixtures("blank")
def test_many_classes_have_no_matrix_but_their_confusions(finished):
    num = 25
    counts = [[one, one, 1] for one in range(num)] + [[0, 1, 3]]
    write_json(
        finished / "classes.json",
        {
            "labelling": "group",
            "classes": [f"c{one}" for one in range(num)],
            "labels": [1] * num,
            "counts": counts,
        },
    )
    source = html_of(finished)
    assert 'class="numbers matrix"' not in source
    assert "Most frequent confusions" in section(source, "classes")
    assert "c0 c1 3 0.750" in section(source, "classes")
    assert "All 25 classes" in section(source, "classes")


@pytest.mark.usefixtures("blank")
def test_data_without_classes_say_so(finished):
    write_json(finished / "classes.json", {"labelling": "", "classes": [], "labels": [], "counts": []})
    assert "no labels that a probe could use" in section(html_of(finished), "classes")


def test_the_best_of_a_column_is_marked_also_when_a_baseline_wins(source):
    start = source.index('<section id="results"')
    body = source[start : source.index("</table>", start)]
    marked = {
        re.search(r'<th scope="row">(.*?)</th>', row).group(1): re.findall(
            r'<td class="best">.*?</span>([\d.]+)', row
        )
        for row in body.split("<tr>")
        if 'class="best"' in row
    }
    assert marked["l2"] == ["0.740"]
    assert marked["scratch"] == ["0.658", "0.752"]
    # With one label a class the student is ahead by less than 770 test items can tell.
    assert marked["student"] == ["0.412", "0.668", "0.823"]


def test_figures_of_the_steps(source):
    text = Page(source).text
    for expected in (
        "10 \u00d7 60",
        "990.0 MB",
        "last loss (chance 4.159)",
        "826.2 kB",
        "0.99999994",
        "built in",
    ):
        assert expected in text


def test_partition_costs_and_dropped_replies(source):
    assert "skew 0.412" in section(source, "partition")
    assert "dirichlet, alpha 0.5" in section(source, "partition")
    assert "evaluate 3 min 30 s 0.727" in section(source, "costs")
    assert "bytes 16.5 MB 990.0 MB" in section(source, "costs")
    assert "17 103 loss is <nan>" in section(source, "dropped")


def test_limits_are_plain(source):
    text = section(source, "limits")
    assert "No differential privacy was used." in text
    assert "neither photographs nor free-hand sketches" in text
    assert "held by whoever deploys the student" in text


@pytest.mark.usefixtures("blank")
def test_icons_are_only_spoken_of_where_there_are_icons(finished):
    settings = (finished / "config.toml").read_text().replace('name = "emoji"', 'name = "folder"')
    write_text_atomically(finished / "config.toml", settings)
    assert "icons" not in section(html_of(finished), "limits")


def test_nothing_is_asked_of_a_server(source):
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:|//|file:)""", source, re.IGNORECASE)
    assert not re.search(r"url\(\s*(?!#)", source, re.IGNORECASE)
    assert "://" not in source
    assert "@import" not in source
    page = Page(source)
    assert not {"iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    assert [one["href"] for one in page.all("link")] == ["data:,"]
    assert all(one["src"].startswith("data:image/png;base64,") for one in page.all("img"))


def test_the_one_script_is_the_file_and_the_policy_allows_no_other(source):
    script = Path(page.__file__).with_name("templates").joinpath("sort.js").read_text(encoding="utf-8")
    assert re.findall(r"<script>(.*?)</script>", source, re.DOTALL) == [script]
    assert source.count("<script") == source.count("</script") == 1
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = Page(source).all("meta")[1]["content"]
    assert [one for one in policy.split("; ") if "script" in one] == [f"script-src 'sha256-{digest}'"]
    assert policy.startswith("default-src 'none'; ")


def test_it_can_be_read_without_seeing(source):
    page = Page(source)
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["role"] == "img" and one["aria-label"] for one in page.all("svg"))
    assert all(one.get("scope") in ("row", "col") for one in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html")[0]["lang"] == "en"
    titles = {one.get("id") for one in page.all("h2")}
    assert {one["aria-labelledby"] for one in page.all("section")} == titles


def test_ids_are_unique_and_references_resolve(source):
    ids = [attributes["id"] for _, attributes in Page(source).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', source)) | set(re.findall(r"url\(#([^)]+)\)", source))
    assert used <= set(ids)


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("evil", EVIL)
def test_texts_of_the_run_are_escaped(finished, numbers, evil):
    settings = (
        (finished / "config.toml").read_text().replace('name = "demo"', f"name = {json.dumps(evil)}", 1)
    )
    write_text_atomically(finished / "config.toml", settings)
    numbers["baselines"][evil] = numbers["baselines"]["l2"]
    numbers["student"]["data"] = evil
    numbers["teacher"] = {"text": evil, "warnings": [evil]}
    write_json(finished / "evaluation.json", numbers)
    named = read_json(finished / "classes.json")
    write_json(finished / "classes.json", named | {"classes": [evil, "a", "b"], "labelling": evil})
    parts = read_json(finished / "partition.json")
    parts["table"][0]["classes"][evil] = 7
    write_json(finished / "partition.json", parts)
    write_json(finished / "environment.json", {evil: evil, "packages": {evil: evil}})
    write_json(finished / "export" / "report.json", {"files": {evil: {"bytes": 3}}, "parity": {evil: evil}})
    with (finished / "events.jsonl").open("a") as file:
        rejected = [{"node": evil, "reason": evil}, evil]
        for event in (
            {"event": "round", "round": 61, "loss": 1.0, "rejected": rejected},
            {"event": "stage", "name": evil, "seconds": 1.0},
        ):
            file.write(json.dumps(event) + "\n")
    source = html_of(finished)
    assert source.count("<script") == source.count("</script") == 1
    assert f"<h1>{spelt_out(evil)}</h1>" in source
    page = Page(source)
    assert page.open == []
    assert page.all("script") == [{}]
    assert harmless(page)
    # Title, heading, results, teacher, warning, classes, partition, environment, export, replies, stage.
    assert page.text.count(" ".join(evil.replace("`", "").split())) >= 16


def test_equal_inputs_give_equal_bytes_wherever_they_lie(reported, finished):
    assert write_report(finished).read_bytes() == (reported / "report.html").read_bytes()
    for name in FIGURES:
        path = Path("figures") / f"{name}.png"
        assert (finished / path).read_bytes() == (reported / path).read_bytes()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the report of it."""
    folder = tmp_path_factory.mktemp("empty")
    write_report(folder)
    return folder


@pytest.mark.parametrize(
    ("file", "anchor", "command"),
    [
        ("evaluation.json", "results", "edgecmd evaluate"),
        ("evaluation.json", "labels", "edgecmd evaluate"),
        ("classes.json", "classes", "edgecmd evaluate"),
        ("retrieval.npz", "retrieval", "edgecmd run"),
        ("partition.json", "partition", "edgecmd run"),
        ("events.jsonl", "training", "edgecmd simulate"),
        ("events.jsonl", "costs", "edgecmd simulate"),
        ("export/report.json", "export", "edgecmd export"),
        ("audit.json", "audit", "edgecmd audit"),
        ("config.toml", "settings", "edgecmd run"),
        ("environment.json", "environment", "edgecmd run"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(empty, file, anchor, command):
    text = section((empty / "report.html").read_text(encoding="utf-8"), anchor)
    assert f"{file} is missing; {command}" in text
    assert text.endswith("makes it.")


def test_an_empty_folder_still_has_a_page(empty):
    source = (empty / "report.html").read_text(encoding="utf-8")
    assert "No round is finished yet, so there is no result." in source
    assert Page(source).open == []
    assert not (empty / "figures").exists()


def test_it_returns_the_path(empty):
    assert write_report(empty) == empty / "report.html"


def test_no_folder_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder.*edgecmd run"):
        write_report(tmp_path / "nowhere")


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("file", ["evaluation.json", "partition.json", "config.toml", "retrieval.npz"])
def test_a_damaged_file_is_an_error_that_names_it(finished, file):
    (finished / file).write_bytes(b"[1")
    with pytest.raises(DataError, match=re.escape(file)):
        write_report(finished)


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("privacy.json", {"private": True, "epsilon": 7.9}),
        ("evaluation.json", {"student": {"retrieval": [1], "few_labels": 3}}),
        ("partition.json", {"table": [{"client": 0}]}),
        ("partition.json", {"table": 3}),
        ("classes.json", {"classes": ["a"], "labels": [1], "counts": [[0, 4, 1]]}),
        ("classes.json", {"classes": ["a"], "labels": [1], "counts": [[0, "x"]]}),
        ("classes.json", {"classes": ["a", "b"], "labels": [1], "counts": []}),
        ("export/report.json", {"files": {"student.onnx": None}}),
        ("privacy.json", {"warning": 3}),
    ],
)
def test_a_file_of_another_kind_ends_in_words_and_keeps_the_page(finished, file, value):
    (finished / "report.html").write_text("as it was")
    write_json(finished / file, value)
    with pytest.raises(DataError, match="not as edgecmd writes it"):
        write_report(finished)
    assert (finished / "report.html").read_text() == "as it was"
    assert not (finished / "figures").exists()


@pytest.mark.usefixtures("blank")
def test_a_torn_last_line_is_left_out(source, finished):
    with (finished / "events.jsonl").open("a") as file:
        file.write('{"event": "round", "round": 61, "lo')
    assert html_of(finished) == source


@pytest.mark.usefixtures("blank")
def test_rounds_without_an_evaluation(finished):
    (finished / "evaluation.json").unlink()
    source = html_of(finished)
    assert "60 rounds are finished, the last with loss 1.930; nothing is evaluated yet." in source
    assert "edgecmd evaluate adds its chance level" in section(source, "training")
    assert "chance 4.16" not in source


@pytest.mark.usefixtures("blank")
def test_a_run_without_labels_or_retrieval(finished, numbers):
    student = {"data": "pairs", "kind": "real", "num_test": 12, "few_labels": {}}
    student["one_shot"] = {"one_shot": 0.5, "chance": 0.25, "num_concepts": 4.0}
    write_json(finished / "evaluation.json", {"student": student, "baselines": {}, "chance_loss": None})
    source = html_of(finished)
    assert "the student reaches 0.500 in one-shot (chance 0.250); no baseline was run." in source
    assert "no labels that a probe could use" in section(source, "labels")
    assert "it has no chance level" in section(source, "training")
    assert "best:" not in section(source, "results")


@pytest.mark.usefixtures("blank")
def test_rounds_that_nobody_validated(finished):
    lines = (finished / "events.jsonl").read_text().splitlines()[:3]
    write_text_atomically(finished / "events.jsonl", "\n".join(lines) + "\n")
    source = html_of(finished)
    assert "No round was validated" in section(source, "training")
    assert "No stage is finished yet" in section(source, "costs")
    assert section(source, "dropped") == "Dropped replies No reply of a client was dropped."


@pytest.mark.usefixtures("blank")
def test_names_that_do_not_show_are_written_out_in_page_and_charts(finished: Path) -> None:
    """A class of the partition: escapes, bidi marks, newlines, half a pair, a formula."""
    evil = "\x1b[2J\u202egnp\n\u200b\udcff$\\frac{"
    table = json.loads((finished / "partition.json").read_text())
    first = table["classes"][0]
    text = json.dumps(table).replace(json.dumps(first), json.dumps(evil))
    (finished / "partition.json").write_text(text)
    page = write_report(finished).read_text(encoding="utf-8")
    assert not set("\x1b\u202e\u200b") & set(page)
    assert r"\x1b[2J\u202egnp\n\u200b\udcff$\frac{" in page
