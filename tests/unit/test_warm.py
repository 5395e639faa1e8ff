"""A forked interpreter is to its test what one that was started would be: environment, files, exit code, signals."""

import json
import os
import signal
import subprocess

from tests.warm import python

SETTINGS = """
import json, os, sys, datasets, huggingface_hub as hub
from huggingface_hub import constants
from transformers.utils.hub import HF_MODULES_CACHE
places = [constants.HF_HUB_CACHE, HF_MODULES_CACHE, datasets.config.HF_DATASETS_CACHE]
said = [constants.ENDPOINT, hub.HfApi().endpoint, hub.hf_api.api.endpoint, hub.get_token(), constants.HF_HUB_OFFLINE]
print(json.dumps([*map(str, places), *said, os.getcwd(), sys.argv, sys.stdin.read()]))
sys.exit(3)
"""


def test_the_environment_is_read_anew_and_all_is_handed_on(tmp_path) -> None:
    env = {**os.environ, "HF_HOME": "/home/of/ann", "HF_ENDPOINT": "http://hub.test", "HF_TOKEN": "hf_ann"}
    env |= {"HF_HUB_OFFLINE": "1"}
    command = [*python(), "-c", SETTINGS, "one", "two"]
    done = subprocess.run(command, env=env, cwd=tmp_path, input="asked", capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout) == [
        *(f"/home/of/ann/{name}" for name in ("hub", "modules", "datasets")),
        *["http://hub.test"] * 3,
        *["hf_ann", True, str(tmp_path), ["-c", "one", "two"], "asked"],
    ]


def test_an_end_by_a_signal_is_passed_on_either_way() -> None:
    own = subprocess.run([*python(), "-c", f"import os; os.kill(os.getpid(), {signal.SIGKILL})"])
    assert own.returncode == -signal.SIGKILL
    for sent in (signal.SIGTERM, signal.SIGKILL):
        code = "import time; print('ready', flush=True); time.sleep(100)"
        process = subprocess.Popen([*python(), "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        # The process has the other end of its output until it is gone.
        assert process.communicate(timeout=60) == ("", None)
        assert process.returncode == -sent
