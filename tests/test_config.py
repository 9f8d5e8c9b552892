from pathlib import Path

import pytest
from pydantic import ValidationError

from cfpairs.config import Config, dump_config, parse_config, parse_r, read_config
from cfpairs.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cfpairs.yaml"
    path.write_text(text)
    return path


def test_defaults_survive_a_round_trip(tmp_path):
    config = parse_config({"workspace": "/w"})
    again = read_config(write(tmp_path, dump_config(config)))
    assert again == config


def test_models_are_frozen():
    with pytest.raises(ValidationError):
        Config().seed = 3


def test_relative_paths_start_at_the_file(tmp_path):
    config = read_config(write(tmp_path, "workspace: w\ndata: {preset: digits, root: d}\n"))
    assert config.workspace == tmp_path / "w"
    assert config.data.root == tmp_path / "d"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede: 3", "unknown key 'sede', expected perhaps 'seed'"),
        ("encoder: {spec: lite, batchsize: 3}", "perhaps 'batch_size'"),
        ("pairs: [{methd: edit}]", "unknown key 'pairs.0.methd', expected perhaps 'method'"),
        ("seed: -1", "seed: Input should be greater than or equal to 0"),
        ("probe: {r: '3-5'}", "r cannot be read"),
        ("probe: {C: [0]}", "greater than 0"),
        ("probe: {seeds: []}", "needs at least one entry"),
        ("probe: {methods: [erm, erm]}", "same entry twice"),
        ("pairs: [{method: edit}, {method: edit}]", "two pair sets are named 'edit'"),
        ("pairs: [{method: edit, name: ../up}]", "letters, digits"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_faults_are_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="cfpairs init"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        read_config(binary)


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        ("auto", None),
        ("16", (16,)),
        (16, (16,)),
        ("8, 4,16,4", (4, 8, 16)),
        ("0:3", (0, 1, 2, 3)),
        ([2, 1], (1, 2)),
    ],
)
def test_ranks(value, ranks):
    assert parse_r(value) == ranks


@pytest.mark.parametrize("value", ["", "-1", "4:2", "a", -1, (), "1.5"])
def test_bad_ranks(value):
    with pytest.raises(ConfigError):
        parse_r(value)
