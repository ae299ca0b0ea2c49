"""An exported folder to a model hub, where its user asks for it."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from distseg.records.errors import UserError

logger = logging.getLogger(__name__)

# What an export writes. Nothing else leaves, whatever else lies in the folder: no image, no mask.
PATTERNS = (
    *("README.md", "config.yaml", "ensemble.json", "export.json", "depths.csv", "data/*.json"),
    *("members/*.json", "*/config.json", "*/distseg.json", "*.safetensors", "*.onnx", "*.pt2"),
)


class PushFailed(RuntimeError):
    """The hub has not taken a folder; the text is one line for a person to read."""


def check_hub(repo: str) -> None:
    """Before anything is made. UserError: no such name of a repository, or the hub's client is not
    installed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError("--push: huggingface_hub is not installed: pip install 'distseg[hub]'")
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push: {_line(error)}") from None
    if repo.count("/") != 1:
        raise UserError(f"--push: {repo!r}; valid: OWNER/NAME")


def push_folder(folder: Path, repo: str, *, public: bool = False) -> str:
    """Send a folder that `export_run` has made to the repository OWNER/NAME; return its address.

    The repository is made, private unless `public`, where there is none; one that is there keeps
    its visibility, and gets one more commit. Who pushes, and where to, is what the hub's own client
    knows: `hf auth login` or HF_TOKEN, and HF_ENDPOINT.

    Raises:
        UserError: see `check_hub`.
        PushFailed: the hub cannot be reached, or has refused. The folder is still there.
    """
    check_hub(repo)
    from huggingface_hub import HfApi

    api = HfApi(library_name="distseg")
    try:
        made = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(PATTERNS),
            commit_message="Models exported by distseg",
        )  # fmt: skip
    except Exception as error:  # of the client, of its HTTP library, or of the network
        logger.debug("the push failed", exc_info=True)
        raise PushFailed(
            f"{folder} is written, but was not pushed to {repo}: {_line(error)}"
        ) from error
    return str(made)


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
