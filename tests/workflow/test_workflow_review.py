"""Decisions reach every other command: status, probe, report, and a pair set that is built anew."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from review_runs import Running, project, said
from typer.testing import CliRunner

from cfpairs.cli import app
from cfpairs.errors import CfpairsError, WorkspaceError
from cfpairs.review import server
from cfpairs.tables import file_metadata
from cfpairs.workflow import Context, build_pairs, probe, report, stage_states
from cfpairs.workflow.pairs import pairs_state
from cfpairs.workflow.review import open_review


def states(context: Context) -> dict[str, tuple[str, str]]:
    return {s.stage: (s.state, s.detail) for s in stage_states(context)}


def decide(context: Context, number: int, decision: str | None, note: str | None = None) -> str:
    """Decide on a pair of ``random``, counted from the worst; its id."""
    desk = open_review(context, ["random"]).desk
    row = sorted(desk.rows(), key=lambda row: row["pair_id"])[number]
    desk.decide("random", row["pair_id"], decision, note, row["version"])
    return str(row["pair_id"])


def rebuild(context: Context, pairs: int, **more: Any) -> Any:
    pair = context.config.pairs[0].model_copy(update={"pairs": pairs})
    return build_pairs(context, pair, **more)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A project with a probe run and a report."""
    context = project(tmp_path_factory.mktemp("project"), images=False, n=48, pairs=12)
    probe(context)
    report(context)
    return context


def test_probe_and_report_use_what_is_kept_and_say_so(probed: Context) -> None:
    work = probed.workspace
    run = json.loads(work.latest_probe.read_text())
    assert {s[0] for s in states(probed).values()} == {"done"}
    decide(probed, 0, "keep", "a fine one")
    decide(probed, 1, None, "just a note")
    assert states(probed)["probe"] == ("done", "")  # nothing that is computed has changed
    assert states(probed)["report"][0] == "stale"  # but the page shows notes
    dropped = decide(probed, 2, "drop", "blurred <b>")
    assert states(probed)["probe"] == ("stale", "pairs random changed")
    assert states(probed)["pairs:random"] == ("done", "1 dropped by hand")
    result = probe(probed)
    assert result.made and "pairs random: 1 dropped by hand, not used" in result.notes
    assert result.data["dropped_by_hand"] == {"random": 1, "again": 0}
    used = {r["n_pairs"] for r in result.data["results"] if r["pair_set"] == "random"}
    assert used == {11}
    made = report(probed)
    assert "pairs random: 1 dropped by hand, not used" in made.notes
    counts = json.loads(work.report_json.read_text())["pair_sets"]["random"]["counts"]
    assert counts == {"ok": 11, "dropped by hand": 1}
    page = work.report_html.read_text()
    assert "1 dropped by hand" in page and "blurred &lt;b&gt;" in page and "blurred <b>" not in page
    assert {s[0] for s in states(probed).values()} == {"done"}
    # taken back: the first run is the right one again, and there already
    desk = open_review(probed, ["random"]).desk
    row = next(r for r in desk.rows() if r["pair_id"] == dropped)
    desk.decide("random", dropped, None, None, row["version"])
    assert states(probed)["probe"][0] == "stale"
    again = probe(probed)
    assert not again.made and again.data["run_id"] == run["run_id"]
    assert not any("by hand" in note for note in again.notes)


def test_the_reasons_of_the_probe_run_are_there_at_once(probed: Context) -> None:
    folder = probed.workspace.probe_run(json.loads(probed.workspace.latest_probe.read_text())["run_id"])
    stored = json.loads((folder / "quality.json").read_text())
    pair = open_review(probed, ["random"]).desk.kept("random")[5]
    flag = {"pair_id": pair, "flag": "failed edit", "score": 0.1, "reason": "its sides are equal"}
    kept = (folder / "quality.json").read_text()
    stored["random"]["flags"] = [flag]
    (folder / "quality.json").write_text(json.dumps(stored))
    try:
        review = open_review(probed)
        first = review.desk.rows()[0]
        assert first["pair_id"] == pair and first["flags"][0]["reason"] == "its sides are equal"
        assert review.meter.summary("random")["broken"] == 1
    finally:
        (folder / "quality.json").write_text(kept)


def test_a_rebuilt_pair_set_keeps_the_decisions(tmp_path: Path) -> None:
    context = project(tmp_path, images=False, n=48, pairs=12, embedded=False)
    path = context.workspace.pairs("random")
    plain = path.read_bytes()
    whole = said(tmp_path)
    rebuild(context, 5, force=True)
    few = set(said(tmp_path))
    rebuild(context, 12, force=True)
    assert path.read_bytes() == plain and few < set(whole)
    order = sorted(whole)
    for number, pair in enumerate(order):
        decide(context, number, "drop" if pair in few else "keep", f"note {number}")
    before = said(tmp_path)
    assert pairs_state(context, context.config.pairs[0]) == ("done", "")  # decisions make nothing stale
    forced = rebuild(context, 12, force=True)
    assert said(tmp_path) == before and "decisions of a review carried over: 12" in forced.notes
    assert not context.workspace.decisions("random").exists()
    fewer = rebuild(context, 5)
    assert {p: said(tmp_path)[p] for p in few} == {p: before[p] for p in few}
    assert fewer.data["decisions"] == {"carried_over": 5, "waiting": 7}
    assert any("they wait in" in note for note in fewer.notes)
    assert fewer.data["counts"] == {"dropped": 5} and fewer.data["yield"]["kept"] == 5
    assert context.workspace.decisions("random").exists()
    rebuild(context, 12)
    assert said(tmp_path) == before and not context.workspace.decisions("random").exists()


def test_a_build_that_is_killed_between_two_files_loses_no_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cfpairs.workflow import pairs as stage

    context = project(tmp_path, images=False, n=48, pairs=12, embedded=False)
    dropped = decide(context, 3, "drop", "why")
    before = said(tmp_path)

    def killed(*_args: Any, **_more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(context, 12, force=True)
    assert not context.workspace.pairs("random").exists()
    rebuild(context, 12)
    assert said(tmp_path) == before and said(tmp_path)[dropped][1] == "drop"
    # Killed after the pairs were written: a decision that is then taken back does not come back.
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_prune_images", killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(context, 12, force=True)
    assert context.workspace.decisions("random").exists() and said(tmp_path) == before
    decide(context, 3, None)
    rebuild(context, 12, force=True)
    assert said(tmp_path)[dropped] == ("ok", None, None)


def test_metadata_survives_a_decision(tmp_path: Path) -> None:
    context = project(tmp_path, images=False, n=48, pairs=6, embedded=False)
    path = context.workspace.pairs("random")
    before = file_metadata(path)
    decide(context, 0, "drop")
    assert file_metadata(path) == before and set(before) >= {"fingerprint", "source_digest", "made_items"}


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, images=False, n=48, pairs=6, embedded=False)
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    monkeypatch.setattr(server, "serve", lambda _app, place, ready: (ready(), place.socket.close()))
    told = invoke("review", "--pair-set", "again")
    assert told.exit_code == 0 and "http://127.0.0.1:" in told.stdout, told.exception
    assert "pairs again: 6 used, 0 dropped and 0 kept by hand, 6 not looked at" in told.stdout
    assert len(opened) == 1 and opened[0] in told.stdout
    assert invoke("review", "--no-open").exit_code == 0 and len(opened) == 1
    for args, words in (
        (("--pair-set", "agian"), "perhaps 'again'"),
        (("-w", "none"), "there are no pairs to review"),
    ):
        error = invoke("review", "--no-open", *args).exception
        assert isinstance(error, CfpairsError) and words in str(error) and "\n" not in str(error)
    busy = server.open_place()
    try:
        error = invoke("review", "--no-open", "--port", str(busy.port)).exception
        assert isinstance(error, CfpairsError) and f"port {busy.port} is taken" in str(error)
        assert error.exit_code == 2
    finally:
        busy.socket.close()


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = project(tmp_path, images=False, n=48, pairs=6, embedded=False)
    monkeypatch.chdir(tmp_path)
    with context.workspace.lock():
        error = threaded(lambda: invoke("review", "--no-open").exception)
    assert isinstance(error, WorkspaceError) and "another process is working" in str(error)
    with Running(tmp_path) as running:
        error = invoke("probe").exception
        assert isinstance(error, WorkspaceError)
        assert f"process {running.process.pid} (review --no-open)" in str(error)
        shown = invoke("status")  # reading is always possible
        assert shown.exit_code == 0 and "pairs:random" in shown.stdout
        code, err = running.end("terminate")
        assert (code, err) == (0, "")
    assert not (tmp_path / "work" / ".lock-holder.json").exists()


def threaded(call: Any) -> Any:
    """The lock is held by a thread: another one must be refused as another process is."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]
