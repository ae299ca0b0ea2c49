"""What a run has come to, as lines of text for its end: members, ensemble, choices, time, and the
commands that may follow."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping
from typing import Any

from distseg.config.load import apply_overrides, parse_config
from distseg.config.schema import Config
from distseg.functional.verdict import beaten_by
from distseg.records.ensemble_record import is_whole, read_ensemble
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, read_lines
from distseg.records.log import counted, duration
from distseg.records.paths import RoundKey, Run, final_ensemble, rounds_on_disk
from distseg.run.changes import find_changes
from distseg.run.member_status import MemberStatus, member_status
from distseg.run.members import known_folds, known_members

PHASES = {"data": "data", "train": "training and out-of-fold prediction", "ensemble": "ensemble",
          "teach": "teachers' predictions", "predict": "test prediction"}  # fmt: skip
MOST_MEMBERS = 30  # rows of the table; the report has all
STEPS = {
    "simpler": "a model or a snapshot alone",
    "simpler, with its own rules": "a model or a snapshot alone, with rules of its own",
}


def member_lines(config: Config, run: Run, key: RoundKey) -> list[str]:
    """A row for each member of a round: its out-of-fold score, epochs and time."""
    statuses = [
        member_status(config, run, key, *member) for member in known_members(config, run, key)
    ]
    width = max([len("model"), *(len(status.name) for status in statuses)])
    lines = [f"{'model':<{width}}  fold   score  epochs     time"]
    for status in statuses[:MOST_MEMBERS]:
        lines.append(_member_line(status, width))
    if len(statuses) > MOST_MEMBERS:
        lines.append(f"... {len(statuses) - MOST_MEMBERS} more, see the report")
    return lines


def _member_line(status: MemberStatus, width: int) -> str:
    if status.state != "done":
        why = status.message.splitlines()[0][:160] if status.message else status.state
        return f"{status.name:<{width}}  {status.fold:>4}  LEFT OUT: {why}"
    score = "      -" if status.score is None else f"{status.score:>7.4f}"
    time = duration(status.seconds + (status.oof_seconds or 0.0))
    return f"{status.name:<{width}}  {status.fold:>4} {score}  {status.epochs:>6}  {time:>7}"


def gain_lines(config: Config, record: Mapping[str, Any]) -> list[str]:
    """What the ensemble gains over the best of its models by itself; nothing where there is only
    one, or where one is better: `summary` says that elsewhere."""
    models = {
        name: one
        for name, one in record["scores"].get("against", {}).items()
        if "#" not in name and one.get("standard_error") is not None
    }
    if len(models) < 2 or beaten_by(models):
        return []
    name, best = max(models.items(), key=lambda item: item[1]["score"])
    return [
        f"the ensemble gains {best['gain']:+.4f} ± {best['standard_error']:.4f} over its best "
        f"model alone ({name}: {config.metric} {best['score']:.4f})"
    ]


def choice_lines(record: Mapping[str, Any]) -> list[str]:
    """What the tuning has adopted, with the gain on held-back folds, and what it has refused."""
    adopted, refused = [], []
    for step in record["scores"]["nested"]["steps"]:
        name = STEPS.get(step["step"], step["step"])
        if step["adopted"]:
            gain, error = step["after"] - step["before"], step.get("standard_error")
            shown = f"{gain:+.4f}" + (f" ± {error:.4f}" if error is not None else "")
            adopted.append(f"{name} ({shown})")
        else:
            refused.append(f"{name}: {step['reason']}")
    lines = [f"adopted: {', '.join(adopted)}"] if adopted else []
    return lines + [f"refused: {text}" for text in refused]


def time_lines(run: Run) -> list[str]:
    """Seconds by phase, of all starts of the run; nothing while nothing is known."""
    from distseg.report.report import stage_seconds

    seconds = stage_seconds(read_lines(run.ledger))
    parts = [
        f"{text} {duration(seconds[phase])}" for phase, text in PHASES.items() if seconds.get(phase)
    ]
    return [f"time: {', '.join(parts)}"] if parts else []


def submission_lines(prediction: Mapping[str, Any] | None) -> list[str]:
    """How many rows the submission has, and how many of them without an object, where it is a
    table that tells; or how many masks."""
    if not prediction:
        return []
    rows, empty = prediction["rows"], prediction.get("empty")
    if "problem" in prediction:
        return [f"the submission cannot be read: {prediction['problem']}"]
    if empty is None:
        return [f"the submission has {counted(rows, 'mask')}"]
    return [f"the submission has {counted(rows, 'row')}, {empty:,} without an object"]


def summary_numbers(run: Run) -> dict[str, float]:
    """The numbers of a run for a tracker: the nested score with its error, models, rounds."""
    record = final_ensemble(run)
    final, nested = record["scores"]["final"], record["scores"]["nested"]
    numbers = {"score": final["score"], "default_score": nested["default"]}
    if final.get("standard_error") is not None:
        numbers["standard_error"] = final["standard_error"]
    numbers |= {f"model/{name}": one["tta"] for name, one in record["scores"]["members"].items()}
    for number in rounds_on_disk(run):
        if is_whole(run.ensemble(number)):
            scores = read_ensemble(run.ensemble(number))["scores"]
            numbers[f"round/{number}"] = scores["final"]["score"]
    return {key: float(value) for key, value in numbers.items()}


def next_commands(config: Config, run: Run) -> list[tuple[str, str]]:
    """(what for, command) of what may follow, ready to paste."""
    folder, more = shlex.quote(str(run.folder)), one_model_more(config, run)
    commands = [
        ("masks of new images", f"distseg predict {folder} --images IMAGES --out MASKS"),
        ("the report", f"python -m webbrowser {shlex.quote(run.report_html.resolve().as_uri())}"),
        ("threshold, areas and weights in one search", f"distseg tune {folder} --postprocess"),
        ("the models, to use elsewhere", f"distseg export {folder} --out MODEL"),
    ]
    if more:
        again = f"distseg run {shlex.quote(str(run.config))} {shlex.quote(more)} --out {folder}"
        what = "one model more, from another seed; what is trained stays"
        commands.insert(-1, (what, again))
    return commands


def one_model_more(config: Config, run: Run) -> str:
    """The key of the first model with a seed that none has, for `distseg run`; "" where the run
    cannot have another model: a later round has learned from those that there are."""
    name, model = next(iter(config.members.items()))
    taken = {one.seed for one in config.members.values()}
    seed = next(
        n for n in itertools.count(model.seed + 1)
        if n not in taken and f"{name}_seed{n}" not in config.members
    )  # fmt: skip
    again = {**model.model_dump(mode="json", exclude_defaults=True), "seed": seed}
    more = f"members.{name}_seed{seed}={json.dumps(again)}"
    try:
        changed = parse_config(apply_overrides(config.model_dump(mode="json"), [more]), more)
        if find_changes(changed, run).refused:
            return ""
    except UserError:  # a name that is too long, a seed that is too high
        return ""
    trained = {model for model, _ in changed.planned_members(known_folds(config, run), 0)}
    return more if f"{name}_seed{seed}" in trained else ""


def next_text(config: Config, run: Run) -> str:
    """`next_commands` as text."""
    commands = next_commands(config, run)
    return "".join(f"# {what}\n{command}\n" for what, command in commands)


def write_next(config: Config, run: Run) -> None:
    """Write next.txt of the run: the commands that may follow."""
    atomic_write(run.next_commands, next_text(config, run))
