"""What the server acknowledged survives SIGKILL; what it did not is absent, whole."""

import itertools
import os
import random
import re
import threading
import time

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from fusehub.localhub import LocalHubError, running


def client(server):
    return HfApi(endpoint=server.url, token=server.token("alice"))


def test_everything_acknowledged_is_there_after_a_kill(tmp_path):
    content = os.urandom(300_000)
    with running(tmp_path / "hub") as server:
        api = client(server)
        api.create_repo("alice/m", private=True)
        add = [CommitOperationAdd("model.bin", content), CommitOperationAdd("a.txt", b"text")]
        sha = api.create_commit("alice/m", add, commit_message="both").oid
        request = api.create_commit(
            "alice/m", [CommitOperationAdd("b.txt", b"b")], commit_message="pr", create_pr=True
        )
        api.create_tag("alice/m", tag="v1")
        api.update_repo_settings("alice/m", gated="auto")
        server.kill()
    with running(tmp_path / "hub") as server:
        api = client(server)
        info = api.model_info("alice/m", revision="v1")
        assert info.sha == sha and info.private and info.gated == "auto"
        with open(api.hf_hub_download("alice/m", "model.bin", cache_dir=tmp_path / "cache"), "rb") as file:
            assert file.read() == content
        api.merge_pull_request("alice/m", request.pr_num)
        assert api.file_exists("alice/m", "b.txt")


def test_killed_again_and_again_while_clients_push(tmp_path):
    """Three writers, four kills at random moments: no acknowledged commit is lost, and every commit is complete."""
    rng, acknowledged, stop = random.Random(0), [], threading.Event()

    def push(writer, api):
        for step in itertools.count():
            if stop.is_set():
                return
            name = f"{writer}-{step}"
            contents = {f"{name}.bin": os.urandom(50_000), f"{name}.txt": name.encode()}
            add = [CommitOperationAdd(path, content) for path, content in contents.items()]
            try:
                acknowledged.append((name, api.create_commit("alice/m", add, commit_message=name).oid))
            except Exception:  # the server is gone for a moment, in whatever way it shows
                time.sleep(0.02)

    port, threads = 0, []
    for _ in range(4):
        with running(tmp_path / "hub", port) as server:
            if not threads:
                client(server).create_repo("alice/m")
                port = int(server.url.rsplit(":", 1)[1])
                threads = [threading.Thread(target=push, args=(n, client(server))) for n in range(3)]
                for thread in threads:
                    thread.start()
            before, deadline = len(acknowledged), time.time() + 5
            while len(acknowledged) < before + 3 and time.time() < deadline:
                time.sleep(0.01)
            time.sleep(rng.random() * 0.3)
            server.kill()
    with running(tmp_path / "hub", port) as server:
        stop.set()
        for thread in threads:
            thread.join()
        api = client(server)
        files = set(api.list_repo_files("alice/m"))
        commits = {commit.commit_id for commit in api.list_repo_commits("alice/m")}
        assert len(acknowledged) >= 12
        for name, oid in acknowledged:
            assert {f"{name}.bin", f"{name}.txt"} <= files and oid in commits
        assert {f[:-4] for f in files if f.endswith(".bin")} == {f[:-4] for f in files if f.endswith(".txt")}
        folder = api.snapshot_download("alice/m", cache_dir=tmp_path / "cache")
        assert len(os.listdir(folder)) == len(files)


def test_killed_in_the_middle_of_an_upload_the_same_push_works_again(tmp_path):
    big = tmp_path / "model.bin"
    big.write_bytes(os.urandom(40 * 2**20))
    with running(tmp_path / "hub") as server:
        api = client(server)
        api.create_repo("alice/m")
        port = int(server.url.rsplit(":", 1)[1])

        def push():
            try:
                api.upload_file(path_or_fileobj=big, path_in_repo="model.bin", repo_id="alice/m")
            except Exception as error:
                failures.append(error)

        failures = []
        thread = threading.Thread(target=push)
        thread.start()
        temp = tmp_path / "hub" / "tmp"
        while not any(path.stat().st_size > 2**20 for path in temp.iterdir()):
            time.sleep(0.001)
        server.kill()
    with running(tmp_path / "hub", port) as server:  # the client's own retry, or ours, finishes the work
        thread.join()
        if failures:
            client(server).upload_file(path_or_fileobj=big, path_in_repo="model.bin", repo_id="alice/m")
        path = client(server).hf_hub_download("alice/m", "model.bin", cache_dir=tmp_path / "cache")
        with open(path, "rb") as file:
            assert file.read() == big.read_bytes()


def test_a_half_written_state_is_never_read(tmp_path):
    """Every file of a repository appears by a rename: none is ever seen half written."""
    with running(tmp_path / "hub") as server:
        api = client(server)
        api.create_repo("alice/m")
        folder, seen, done = tmp_path / "hub" / "repos" / "models" / "alice" / "m", set(), threading.Event()

        def watch():
            import json

            while not done.is_set():
                state = json.loads((folder / "repo.json").read_bytes())
                head = state["heads"]["main"]
                commit = json.loads((folder / "commits" / f"{head}.json").read_bytes())
                for entry in commit["files"].values():
                    assert (folder / "blobs" / entry.get("lfs", entry["oid"])).stat().st_size == entry["size"]
                seen.add(head)
                time.sleep(0.001)

        thread = threading.Thread(target=watch)
        thread.start()
        for n in range(10):
            api.upload_file(path_or_fileobj=os.urandom(20_000), path_in_repo=f"{n}.bin", repo_id="alice/m")
        done.set()
        thread.join()
        assert len(seen) > 4


def test_one_server_a_folder_and_one_a_port(tmp_path):
    with running(tmp_path / "hub") as server:
        port = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(LocalHubError, match="Another hub is already serving"), running(tmp_path / "hub"):
            pass
        with pytest.raises(LocalHubError, match=re.escape(f":{port}")), running(tmp_path / "other", port):
            pass
    with running(tmp_path / "hub", port) as server:
        assert client(server).whoami()["name"] == "alice"


def test_the_server_goes_when_its_parent_is_killed(tmp_path):
    import subprocess
    import sys

    import psutil

    code = (
        "import sys,time\nfrom fusehub.localhub import running\n"
        "with running(sys.argv[1]) as hub:\n print(hub.pid, flush=True)\n time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "hub")], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    server = psutil.Process(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([server], timeout=8)
    for process in alive:
        process.kill()
    assert not alive


def test_serve_says_where_it_is_and_stays_on_this_machine(tmp_path):
    with running(tmp_path / "hub") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert (tmp_path / "hub" / "users.json").exists()
        assert server.token("alice") == server.token("alice") != server.token("alice", "read")
