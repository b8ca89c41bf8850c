"""Reading a run folder."""

import numpy as np
import pytest

from edgecmd.core.errors import DataError
from edgecmd.core.events import EventLog
from edgecmd.report.read import read_run


def test_a_repeated_round_counts_once_and_stages_add_up(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for index, loss in ((1, 4.0), (3, 2.0), (2, 3.0), (3, 1.5)):
        log.append("round", round=index, loss=loss)
    for name, seconds in (("simulate", 10.0), ("export", 1.0), ("simulate", 2.5)):
        log.append("stage", name=name, seconds=seconds)
    run = read_run(tmp_path)
    assert [(event["round"], event["loss"]) for event in run.rounds] == [(1, 4.0), (2, 3.0), (3, 1.5)]
    assert run.stages == {"simulate": 12.5, "export": 1.0}


def test_the_folder_names_a_run_without_settings(tmp_path):
    folder = tmp_path / "autumn"
    folder.mkdir()
    run = read_run(folder)
    assert run.name == "autumn"
    assert run.gallery is None
    assert run.setting("distill.loss", "?") == "?"


def test_settings_by_dotted_key(finished):
    run = read_run(finished)
    assert run.name == "demo"
    assert run.setting("federation.partition") == "dirichlet"
    assert run.setting("federation.partition.deeper", "none") == "none"


def test_gallery(finished):
    gallery = read_run(finished).gallery
    assert gallery.query.shape == (4, 16, 16, 1)
    assert gallery.found.shape == (4, 5, 16, 16, 3)


def test_a_json_file_without_an_object_is_refused(tmp_path):
    (tmp_path / "evaluation.json").write_text("[1, 2]")
    with pytest.raises(DataError, match=r"evaluation\.json holds a list, not a JSON object"):
        read_run(tmp_path)


def test_a_gallery_of_unequal_lengths_is_refused(tmp_path):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    found = np.zeros((2, 5, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "retrieval.npz", query=images, truth=images, found=found, rank=np.array([1]))
    run = read_run(tmp_path)
    with pytest.raises(DataError, match="different lengths"):
        _ = run.gallery


def test_images_are_read_when_they_are_asked_for_and_once(finished, monkeypatch):
    read = []
    monkeypatch.setattr("edgecmd.report.read.npz_arrays", lambda path, **_: read.append(path.name) or {})
    run = read_run(finished)
    assert run.evaluation
    assert read == []
    with pytest.raises(DataError):
        _ = run.gallery
    assert read == ["retrieval.npz"]
    assert run.audit_pictures is run.audit_pictures
