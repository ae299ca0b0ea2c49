"""A stand-in for a launched job, as real processes: what it does stands in script.json.

worker.py rank RUN MEMBERS OVERRIDES...     trains by the script, member after member
worker.py launcher SESSION RUN ...          starts a rank, in a session of its own as torchrun
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from distseg.jobs.job import watch_parent
from distseg.records.files import append_line, mark_done, write_json
from distseg.records.paths import MemberPaths, Run


def rank(run: Run, members: str, overrides: list[str]) -> None:
    watch_parent()
    script = json.loads((run.folder / "script.json").read_text())
    for text in members.split(","):
        name, _, fold = text.partition(":")
        member = run.member(0, name, int(fold))
        if not member.done.is_file():
            train(run, member, script.get(f"{name}{fold}", []), overrides)


def train(run: Run, member: MemberPaths, acts: list[str], overrides: list[str]) -> None:
    """The act of this attempt: the attempts before it are counted in the member's folder."""
    member.folder.mkdir(parents=True, exist_ok=True)
    with (member.folder / "attempts").open("a+") as file:
        file.seek(0)
        number = len(file.readlines())
        file.write(" ".join(overrides) + "\n")
    act = acts[number] if number < len(acts) else "done"
    append_line(run.folder / "trace.jsonl", {"member": member.folder.name, "time": time.time()})
    if act == "sleep":
        # A loader process, and a rank that is deaf to SIGTERM: the worst case.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (member.folder / "ready").touch()
        time.sleep(600)
    if act == "save":  # leaves with its state, as train.py does

        def leave(*_: object) -> None:
            member.state.mkdir()
            os._exit(143)

        signal.signal(signal.SIGTERM, leave)
        (member.folder / "ready").touch()
        time.sleep(600)
    if act == "crash":
        raise RuntimeError("the loss has a hole")
    if act == "vanish":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "user_in_log":
        sys.exit("distseg: error: the batch does not fit")
    if act.startswith("fail:"):
        write_json(member.failure, {"kind": act.removeprefix("fail:"), "message": f"it is {act}"})
        sys.exit(1)
    if act == "no_done":
        return
    append_line(member.metrics, {"epoch": 0, "epochs": 2, "loss": 1.0, "score": 0.5, "seconds": 1})
    time.sleep(0.3)
    mark_done(member.done, {"score": 0.5})


def launcher(own_session: bool, arguments: list[str]) -> None:
    command = [sys.executable, __file__, "rank", *arguments]
    sys.exit(subprocess.Popen(command, start_new_session=own_session).wait() and 1)


if __name__ == "__main__":
    if sys.argv[1] == "launcher":
        launcher(sys.argv[2] == "session", sys.argv[3:])
    else:
        rank(Run(Path(sys.argv[2])), sys.argv[3], sys.argv[4:])
