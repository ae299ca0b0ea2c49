"""What a run says when it has come to its end: the report, and the last lines on the terminal."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.functional.metrics import TIE
from distseg.functional.verdict import beaten_by
from distseg.records.ensemble_record import is_whole, read_ensemble
from distseg.records.errors import UserError
from distseg.records.paths import ALL_ROUNDS, RoundKey, Run, final_ensemble, find_run
from distseg.run.ending import (
    choice_lines,
    gain_lines,
    member_lines,
    next_text,
    submission_lines,
    time_lines,
    write_next,
)
from distseg.run.members import unused_members
from distseg.run.submission import prediction_record, score_test
from distseg.run.until import partial_line, partial_record

LOSES = "THE ENSEMBLE LOSES TO A MODEL OF ITS OWN"
_FRAME = "!" * 78


def report(config: Config, run: Run, extra: dict[str, Any] | None = None) -> str:
    """Write report.html and report.json; returns the last lines that `distseg run` prints.

    extra: what is known beside the run's records; the score on the test images by default.
    """
    record = final_ensemble(run)
    notes = []
    if extra is None:
        try:
            extra = score_test(config, run)
        except UserError as error:  # a submission that was damaged does not end the report
            extra = {}
            notes.append(f"test: not scored: {error}")
    try:
        write_report(config, run, extra)
        write_next(config, run)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        notes.append(f"{run.folder} may only be read: its report stays as it was")
    lines = []
    for key in _rounds_in(config, record):
        lines += [f"{_round_label(key)}:"] if len(config.rounds) > 1 else []
        lines += member_lines(config, run, key)
    lines += [f"{_round_label(n)}: {_score_text(config, one)}" for n, one in _records(config, run)]
    lines.append(f"out-of-fold {_score_text(config, record)}")
    lines += [*gain_lines(config, record), *choice_lines(record)]
    lines += _loss_lines(config, run, record)
    if "test" in extra:
        lines.append(f"test {config.metric} against the truth: {extra['test']['score']:.4f}")
    lines += [*time_lines(run), *submission_lines(prediction_record(run))]
    for path in (run.submission, run.test_masks, run.report_html, run.folder):
        lines += [f"{_label(run, path)}: {path}"] if path.exists() else []
    if unused := unused_members(config, run):
        lines.append(f"not used any more, but still there: {', '.join(unused)}")
    lines += [f"next (also in {run.next_commands}):", *next_text(config, run).splitlines()]
    partial = [line] if (line := partial_line(partial_record(run))) else []
    return "\n".join([*partial, *lines, *notes, *partial])


def write_report(config: Config, run: Run, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write report.html and report.json, with `extra` keys; returns what report.json holds.

    UserError: there is no ensemble yet.
    """
    from distseg.ensemble.choices import scored_images
    from distseg.report.report import write_report
    from distseg.run.submission_pictures import submission_pictures

    scored_of = scored_images(config, run, final_ensemble(run))
    own: dict[str, Any] = {"prediction": prediction_record(run), "partial": partial_record(run)}
    own["unused"] = unused_members(config, run)
    shown = submission_pictures(config, run)
    return write_report(config, run, scored_of, {**own, **(extra or {})}, shown)


def compare_runs(folders: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """What `distseg compare` finds; with `out` also as compare.json and compare.html in there.

    UserError: a run has no ensemble, or is not of the same task, classes or images.
    """
    from distseg.ensemble.choices import scored_images
    from distseg.report.compare import Compared, compare, write_comparison

    runs = []
    for folder, label in zip(folders, _labels(folders), strict=True):
        run = find_run(folder)
        config, ensemble = load_config(run.config), final_ensemble(run)
        scored_of = scored_images(config, run, ensemble)
        runs.append(Compared(label, run, config, ensemble, scored_of))
    record = compare(runs)
    if out is not None:
        write_comparison(runs, record, out)
    return record


def _labels(folders: Sequence[Path]) -> list[str]:
    """What the runs are called: the folder's name, with the one above it where two are equal."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    if len(set(names)) < len(set(paths)):  # each folder once has a name that others have
        names = [f"{path.parent.name}/{path.name}" for path in paths]
    twice = {name for name in names if names.count(name) > 1}
    return [f"{name} ({i})" if name in twice else name for i, name in enumerate(names, 1)]


def _records(config: Config, run: Run) -> list[tuple[RoundKey, dict[str, Any]]]:
    """The records of the rounds and of all of them together, where there are several."""
    keys = [*range(len(config.rounds)), ALL_ROUNDS] if len(config.rounds) > 1 else []
    return [(k, read_ensemble(run.ensemble(k))) for k in keys if is_whole(run.ensemble(k))]


def _rounds_in(config: Config, record: dict[str, Any]) -> list[int]:
    """The rounds whose members are in an ensemble."""
    return list(range(len(config.rounds))) if record["round"] == ALL_ROUNDS else [record["round"]]


def _round_label(key: RoundKey) -> str:
    return "all rounds" if key == ALL_ROUNDS else f"round {key}"


def _score_text(config: Config, record: dict[str, Any]) -> str:
    final = record["scores"]["final"]
    error = f" ± {final['standard_error']:.4f}" if final.get("standard_error") is not None else ""
    return f"{config.metric}: {final['score']:.4f}{error} (nested: {record['flag']})"


def _loss_lines(config: Config, run: Run, record: dict[str, Any]) -> list[str]:
    """What is better than what makes the submission; in a frame where it is so by more than two
    standard errors of the difference, and by half of the score's own."""
    own = record["scores"]["final"]["score"]
    lines = []
    for key, one in _records(config, run):
        score = one["scores"]["final"]["score"]
        if score > own + TIE:
            lines.append(f"{_round_label(key)} scores higher than what makes the submission")
    beaten = beaten_by(record["scores"].get("against", {}))
    if beaten:
        name, worst = next(iter(beaten.items()))
        error = worst["standard_error"]
        text = (
            f"{name} alone scores {config.metric} {worst['score']:.4f} on the same images, the "
            f"ensemble {worst['ensemble']:.4f}: {worst['gain']:+.4f} ± {error:.4f}"
        )
        steps = record["scores"]["nested"]["steps"]
        why = [step["reason"] for step in steps if step["step"].startswith("simpler")]
        if why:
            text += f"; what is simpler, chosen on the other folds, was refused: {why[-1]}"
        # and by more than the scores' own error lets anybody say
        loss, own_error = -worst["gain"], record["scores"]["final"].get("standard_error") or 0.0
        sure = loss > max(2 * error, own_error / 2)
        lines += [_FRAME, LOSES, text, _FRAME] if sure else [text]
    return lines


def _label(run: Run, path: Path) -> str:
    names = {run.submission: "submission", run.test_masks: "test masks", run.report_html: "report"}
    return names.get(path, "run")
