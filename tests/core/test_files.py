"""Files are whole or absent, and a changed bit is noticed."""

import json
import os

import pytest
import torch

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import atomic, load_tensors, read_json, save_tensors, write_json, write_text

TENSORS = {
    "a": torch.arange(12.0).view(3, 4),
    "scalar": torch.tensor(7),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "laid out": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
}


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail_half_way() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="is a folder or a device: expected the name of a file"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


def test_tensors_and_description_come_back_equal(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "kind", 1, TENSORS, {"step": 3})
    tensors, about = load_tensors(path, "kind", 1)
    assert about == {"step": 3, "format": "kind", "version": 1}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "kind", 1, {"a": torch.arange(6.0)}, {"step": 3})
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises((EnvironmentFault, RequestError)):
            load_tensors(path, "kind", 1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_noticed(tmp_path, share):
    path = tmp_path / "x.safetensors"
    save_tensors(path, "kind", 1, TENSORS, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(EnvironmentFault, match="damaged"):
        load_tensors(path, "kind", 1)


def test_json_has_a_format_and_a_version(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, "kind", 2, {"value": 1})
    assert read_json(path, "kind", 2) == {"format": "kind", "version": 2, "value": 1}
    with pytest.raises(EnvironmentFault, match="update Linnaeus"):
        read_json(path, "kind", 1)
    with pytest.raises(RequestError, match="not a 'other' file"):
        read_json(path, "other", 2)
    path.write_text(json.dumps({"value": 1})[:-3])
    with pytest.raises(EnvironmentFault, match="damaged"):
        read_json(path, "kind", 2)
