"""A Hub on this machine: the Hugging Face Hub's HTTP protocol on the files of one folder.

    with running(Path("hub")) as hub:
        api = HfApi(endpoint=hub.url, token=hub.token("alice"))

It imports nothing of the rest of FuseHub. Clients set HF_ENDPOINT to its address and HF_HUB_DISABLE_XET=1.
"""

from .access import Users, add_org, add_user, token_of
from .app import create_app
from .errors import LocalHubError
from .process import Running, running, serve

__all__ = ["LocalHubError", "Running", "Users", "add_org", "add_user", "create_app", "running", "serve", "token_of"]
