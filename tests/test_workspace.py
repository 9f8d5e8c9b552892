import os

import pytest
from e2e_runs import holding_the_lock

from cfpairs.errors import WorkspaceError
from cfpairs.workspace import Workspace


def test_paths_in_the_manifest(tmp_path):
    workspace = Workspace(tmp_path / "w")
    inside, outside = tmp_path / "w" / "a" / "b.png", tmp_path / "c.png"
    assert workspace.relative(inside) == "a/b.png"
    assert workspace.relative(outside) == str(outside)
    assert workspace.file("a/b.png") == inside
    assert workspace.file(str(outside)) == outside


def test_a_second_process_is_told_who_holds_the_lock(tmp_path):
    with holding_the_lock(tmp_path) as holder:
        with pytest.raises(WorkspaceError, match=f"process {holder.pid}"), Workspace(tmp_path).lock():
            pass
        holder.kill()
        holder.wait()
        with Workspace(tmp_path).lock():
            pass


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), Workspace(tmp_path).lock():
        raise RuntimeError
    with Workspace(tmp_path).lock():
        pass


def test_a_workspace_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match=r"cannot be written.*--workspace"):
        Workspace(tmp_path / "file" / "w").ensure()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workspace(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkspaceError, match="Permission denied"):
        Workspace(tmp_path).ensure()
