"""Losses: values by hand, reference implementations, gradients, ignored pixels, spec checks."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from distseg.functional import losses as L
from distseg.functional.loss_names import LOSS_TASKS, TASKS, split_term

B, C, H, W = 3, 4, 5, 6
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("bce", {}),
    ("bce", {"label_smoothing": 0.1, "pos_weight": [1.0, 2.0, 3.0, 4.0]}),
    ("dice", {}),
    ("dice", {"smooth": 1.0}),
    ("jaccard", {}),
    ("boundary", {"width": 1}),
    ("focal", {}),
    ("focal", {"gamma": 0.5, "alpha": 0.25}),
    ("lovasz", {}),
    ("lovasz", {"activation": "elu"}),
    ("lovasz", {"activation": "elu", "symmetric": True}),
]
MULTICLASS: list[tuple[str, dict[str, Any]]] = [
    ("dice", {}),
    ("jaccard", {"smooth": 1.0}),
    ("boundary", {}),
    ("focal", {"alpha": [0.1, 0.2, 0.3, 0.4]}),
    ("cross_entropy", {"label_smoothing": 0.1, "class_weights": [1.0, 2.0, 0.5, 1.0]}),
    ("lovasz_softmax", {}),
]
CASES = [(n, o, False) for n, o in VARIANTS] + [(n, o, True) for n, o in MULTICLASS]


def batch(multiclass: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, C, H, W, generator=g)
    if multiclass:
        return logits, torch.randint(0, C, (B, H, W), generator=g)
    target = (torch.rand(B, C, H, W, generator=g) < 0.4).float()
    target[1, 2] = 0.0  # an empty mask among the others
    return logits, target


def run(
    name: str,
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    return L.LOSSES[name](logits, target, valid, **options)


def grad_of(
    name: str,
    logits: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    leaf = logits.clone().requires_grad_()
    run(name, leaf, target, valid, **options).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


# ------------------------------------------------------------------ values


def image(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


P = image([logit(0.8), logit(0.4)])  # probabilities .8 and .4
Y = image([1.0, 0.0])


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [
        ("bce", {}, -(math.log(0.8) + math.log(0.6)) / 2),
        ("bce", {"pos_weight": 3.0}, -(3 * math.log(0.8) + math.log(0.6)) / 2),
        ("bce", {"label_smoothing": 0.2}, -(
            0.9 * math.log(0.8) + 0.1 * math.log(0.2) + 0.1 * math.log(0.4) + 0.9 * math.log(0.6)
        ) / 2),
        ("dice", {}, 1 - 1.6 / 2.2),
        ("dice", {"smooth": 1.0}, 1 - 2.6 / 3.2),
        ("jaccard", {}, 1 - 0.8 / 1.4),
        ("focal", {}, -(0.04 * math.log(0.8) + 0.16 * math.log(0.6)) / 2),
        ("focal", {"alpha": 0.25}, -(0.01 * math.log(0.8) + 0.12 * math.log(0.6)) / 2),
        ("focal", {"gamma": 0.0}, -(math.log(0.8) + math.log(0.6)) / 2),
    ],
)  # fmt: skip
def test_sigmoid_values_by_hand(name: str, options: Any, value: Any) -> None:
    loss = run(name, P, Y, **options)
    assert loss.shape == (1,) and loss.dtype == torch.float32
    assert loss.item() == pytest.approx(value, abs=1e-6)


def test_the_boundary_of_a_square_by_hand() -> None:
    """A square of 6 x 6 moved by one column: bands of 64 - 16 pixels, each cell of them 0 or 1."""
    truth = torch.zeros(1, 1, 20, 20)
    truth[..., 6:12, 6:12] = 1
    moved = torch.zeros_like(truth)
    moved[..., 6:12, 7:13] = 1

    def band(mask: torch.Tensor) -> set[tuple[int, int]]:
        inside = {tuple(place) for place in mask[0, 0].nonzero().tolist()}
        near = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        grown = {(r + i, c + j) for r, c in inside for i, j in near}
        core = {(r, c) for r, c in inside if all((r + i, c + j) in inside for i, j in near)}
        return grown - core

    first, other = band(truth), band(moved)
    assert len(first) == 48
    expected = 1 - (2 * len(first & other) + 0) / (len(first) + len(other))
    loss = run("boundary", 100 * (2 * moved - 1), truth, width=1, smooth=0.0)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert run("boundary", 100 * (2 * truth - 1), truth, width=1).item() == pytest.approx(0)
    # the same shift costs a large object no less, where Dice hardly sees it
    large = torch.zeros(1, 1, 200, 200)
    large[..., 20:180, 20:180] = 1
    logits = 100 * (2 * large.roll(1, -1) - 1)
    assert run("boundary", logits, large, width=1).item() > 5 * run("dice", logits, large).item()


def test_empty_masks_are_scored_by_the_complement() -> None:
    empty = torch.zeros_like(Y)
    assert run("jaccard", P, empty).item() == pytest.approx(0.6, abs=1e-6)  # mean probability
    assert run("dice", P, empty).item() == pytest.approx(1.2 / 2.8, abs=1e-6)
    sure = torch.full_like(P, -30.0)
    assert run("dice", sure, empty).item() == pytest.approx(0.0, abs=1e-6)


def test_lovasz_values_by_hand() -> None:
    # errors: 1 - .5 = .5 on the positive, 1 + 1 = 2 on the negative; sorted 2 (y=0), .5 (y=1)
    # jaccard loss after each: 1 - 1/2 = .5, then 1 - 0/2 = 1 -> slopes .5, .5
    logits, target = image([0.5, 1.0]), image([1.0, 0.0])
    assert run("lovasz", logits, target).item() == pytest.approx(0.5 * 2 + 0.5 * 0.5)
    elu = run("lovasz", logits, target, activation="elu").item()
    assert elu == pytest.approx(0.5 * 3 + 0.5 * 1.5)
    # complement: 2 (y=1), .5 (y=0): losses 1 - 0/1 = 1, 1 -> slopes 1, 0
    both = run("lovasz", logits, target, symmetric=True).item()
    assert both == pytest.approx((1.25 + 2.0) / 2)


def test_symmetric_is_the_mean_with_the_flipped_problem() -> None:
    logits, target = batch(False)
    for activation in ("relu", "elu"):
        one = run("lovasz", logits, target, activation=activation)
        other = run("lovasz", -logits, 1 - target, activation=activation)
        both = run("lovasz", logits, target, activation=activation, symmetric=True)
        assert torch.allclose(both, (one + other) / 2, atol=1e-5)


def test_multiclass_values_by_hand() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2]])  # two pixels
    logits, target = probs.log().T[None, :, None, :], torch.tensor([[[0, 1]]])
    nll = (-math.log(0.7), -math.log(0.5))
    assert run("cross_entropy", logits, target).item() == pytest.approx(sum(nll) / 2, abs=1e-6)
    weighted = run("cross_entropy", logits, target, class_weights=[1.0, 3.0, 1.0]).item()
    assert weighted == pytest.approx((nll[0] + 3 * nll[1]) / 2, abs=1e-6)
    focal = run("focal", logits, target).item()
    assert focal == pytest.approx((0.09 * nll[0] + 0.25 * nll[1]) / 2, abs=1e-6)
    alpha = run("focal", logits, target, alpha=[0.5, 1.0, 1.0]).item()
    assert alpha == pytest.approx((0.045 * nll[0] + 0.25 * nll[1]) / 2, abs=1e-6)
    # jaccard per class: .7/(1+.3), .5/(1+.2); class 2 is absent: its mean probability
    jaccard = (1 - 0.7 / 1.3 + 1 - 0.5 / 1.2 + 0.15) / 3
    assert run("jaccard", logits, target).item() == pytest.approx(jaccard, abs=1e-6)


def test_lovasz_softmax_on_hard_predictions_is_the_jaccard_loss() -> None:
    target = torch.tensor([[[0, 0, 1, 1]]])
    pred = torch.tensor([[[0, 1, 1, 1]]])
    logits = 60 * F.one_hot(pred, 3).movedim(-1, 1).float()
    # present classes: IoU 1/2 and 2/3; class 2 is absent and does not count
    value = run("lovasz_softmax", logits, target).item()
    assert value == pytest.approx((0.5 + 1 / 3) / 2, abs=1e-6)


@pytest.fixture(scope="module")
def smp_losses() -> ModuleType:
    """smp's own losses folder, loaded without the rest of smp (whose import takes seconds)."""
    smp = importlib.util.find_spec("segmentation_models_pytorch")
    if smp is None or smp.origin is None:
        pytest.skip("segmentation_models_pytorch is not installed")
    folder = Path(smp.origin).parent / "losses"
    spec = importlib.util.spec_from_file_location(
        "smp_losses", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["smp_losses"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lovasz_equals_smp_per_image(smp_losses: ModuleType) -> None:
    logits, target = batch(False)
    theirs = smp_losses.LovaszLoss(mode="binary", per_image=True)
    mine = run("lovasz", logits, target)
    for b in range(B):
        each = [theirs(logits[b, c][None, None], target[b, c][None, None]) for c in range(C)]
        assert mine[b].item() == pytest.approx(torch.stack(each).mean().item(), abs=1e-5)
    leaf = logits[:, :1].clone().requires_grad_()
    theirs(leaf, target[:, :1]).backward()
    assert leaf.grad is not None
    assert torch.allclose(grad_of("lovasz", logits[:, :1], target[:, :1]) / B, leaf.grad, atol=1e-6)


def test_lovasz_softmax_equals_smp_per_image(smp_losses: ModuleType) -> None:
    logits, target = batch(True)
    target[0] = target[0].clamp(max=1)  # classes 2 and 3 are absent from this image
    theirs = smp_losses.LovaszLoss(mode="multiclass", per_image=True)
    expected = theirs(logits, target).item()  # it takes the softmax itself
    assert run("lovasz_softmax", logits, target).mean().item() == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------ properties


@pytest.mark.parametrize(("name", "options", "multiclass"), CASES)
def test_each_sample_stands_alone(name: str, options: Any, multiclass: bool) -> None:
    logits, target = batch(multiclass)
    whole = run(name, logits, target, **options)
    alone = [run(name, logits[b : b + 1], target[b : b + 1], **options) for b in range(B)]
    assert whole.shape == (B,) and torch.allclose(whole, torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize(("name", "options", "multiclass"), CASES)
def test_ignored_pixels_change_nothing(name: str, options: Any, multiclass: bool) -> None:
    logits, target = batch(multiclass)
    expected = run(name, logits, target, **options)
    expected_grad = grad_of(name, logits, target, **options)
    wide = F.pad(logits, (2, 1, 0, 3), value=math.nan)
    wide_target = F.pad(target, (2, 1, 0, 3), value=255)
    valid = F.pad(torch.ones(B, H, W, dtype=torch.bool), (2, 1, 0, 3), value=False)
    assert torch.allclose(run(name, wide, wide_target, valid, **options), expected, atol=1e-6)
    grad = grad_of(name, wide, wide_target, valid, **options)
    assert torch.allclose(grad[:, :, :H, 2 : 2 + W], expected_grad, atol=1e-6)
    assert (grad.movedim(1, -1)[~valid] == 0).all()


@pytest.mark.parametrize(("name", "options", "multiclass"), CASES)
def test_no_valid_pixel_is_zero_loss_and_gradient(
    name: str, options: Any, multiclass: bool
) -> None:
    logits, target = batch(multiclass)
    valid = torch.zeros(B, H, W, dtype=torch.bool)
    assert (run(name, logits, target, valid, **options) == 0).all()
    assert (grad_of(name, logits, target, valid, **options) == 0).all()


@pytest.mark.parametrize(("name", "options", "multiclass"), CASES)
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 200.0])
def test_gradients_are_finite(name: str, options: Any, multiclass: bool, size: float) -> None:
    logits, target = batch(multiclass)
    for t in (target, torch.zeros_like(target), torch.ones_like(target)):
        assert run(name, size * logits, t, **options).isfinite().all()
        assert grad_of(name, size * logits, t, **options).isfinite().all()


@pytest.mark.parametrize(("name", "options", "multiclass"), CASES)
def test_a_gradient_step_lowers_the_loss(name: str, options: Any, multiclass: bool) -> None:
    logits, target = batch(multiclass)
    step = logits - 1e-2 * grad_of(name, logits, target, **options)
    assert (run(name, step, target, **options) < run(name, logits, target, **options)).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        variant
        for variant in VARIANTS
        if variant[0] != "boundary" and (variant[0] != "lovasz" or variant[1].get("symmetric"))
    ],
)
def test_empty_masks_push_every_pixel_down(name: str, options: Any) -> None:
    # 64 x 64: a useful gradient must not fade with the size faster than a mean over pixels does
    logits = torch.randn(2, C, 64, 64, generator=torch.Generator().manual_seed(0))
    grad = grad_of(name, logits, torch.zeros_like(logits), **options)
    per_pixel = grad * C * 64 * 64  # 1 is the gradient of the mean logit
    assert (per_pixel > 0).float().mean() > (0.2 if name == "lovasz" else 0.95)
    assert per_pixel.mean() > 0.02


@pytest.mark.parametrize(("name", "options", "multiclass"), CASES)
def test_float32_inside_autocast_and_from_half_logits(
    name: str, options: Any, multiclass: bool
) -> None:
    logits, target = batch(multiclass)
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(name, half, target, **options)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, run(name, half.float(), target, **options))


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_soft_targets_are_best_met_by_their_own_probability(name: str) -> None:
    target = torch.full((1, 1, 1, 1), 0.3)
    values = torch.stack([run(name, image([logit(p)]), target)[0] for p in (0.2, 0.3, 0.4)])
    assert values.argmin() == 1


def test_lovasz_cuts_soft_targets_at_one_half() -> None:
    logits, target = batch(False)
    soft = target * 0.4 + 0.3  # .3 and .7
    assert torch.equal(run("lovasz", logits, soft), run("lovasz", logits, target))


@pytest.mark.parametrize(
    ("logits", "target", "valid"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), None),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4), None),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5), None),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.ones(2, 4, 4)),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4).bool()),
    ],
)
def test_shapes_are_checked(
    logits: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None
) -> None:
    with pytest.raises(ValueError, match=r"logits must|does not fit|valid must"):
        L.dice(logits, target, valid)


def test_lists_must_fit_the_classes() -> None:
    logits, target = batch(False)
    with pytest.raises(ValueError, match="pos_weight has 2 numbers for 4 classes"):
        run("bce", logits, target, pos_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="Did you mean 'elu'"):
        run("lovasz", logits, target, activation="elu+1")


# ------------------------------------------------------------------ specs


def test_the_torch_free_table_is_the_functions() -> None:
    assert set(L.LOSSES) == set(LOSS_TASKS)


def test_weighted_sum_by_hand() -> None:
    logits, target = batch(False)
    spec: dict[str, Any] = {
        "bce": 1.0,
        "lovasz": {"weight": 0.5, "activation": "elu"},
        "dice": 0,
        "focal": {},
    }
    total = L.weighted_sum(spec, "multilabel")(logits, target, None)
    expected = run("bce", logits, target) + 0.5 * run("lovasz", logits, target, activation="elu")
    assert torch.allclose(total, expected + run("focal", logits, target))
    assert split_term({"gamma": 1.0}) == (1.0, {"gamma": 1.0})


@pytest.mark.parametrize("task", TASKS)
def test_every_allowed_loss_runs_for_its_task(task: str) -> None:
    logits, target = batch(task == "multiclass")
    for name in L.LOSSES:
        if task in LOSS_TASKS[name]:
            assert L.weighted_sum({name: 1.0}, task)(logits, target, None).isfinite().all()
        else:
            with pytest.raises(ValueError, match="is not for task"):
                L.weighted_sum({name: 1.0}, task)


@pytest.mark.parametrize(
    ("spec", "task", "why"),
    [
        ({"lovas": 1.0}, "binary", r"unknown loss 'lovas'. Did you mean 'lovasz'\?"),
        ({"bce": 1.0}, "binery", "Did you mean 'binary'"),
        ({"bce": 1.0}, "multiclass", r"not for task 'multiclass' \(valid: dice"),
    ],
)
def test_bad_specs(spec: Any, task: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        L.weighted_sum(spec, task)


def test_accumulation_equals_the_whole_batch() -> None:
    logits, target = batch(False)
    loss = L.weighted_sum({"lovasz": 1.0, "dice": 1.0}, "multilabel")
    whole, parts = (logits.clone().requires_grad_() for _ in range(2))
    loss(whole, target, None).sum().div(B).backward()
    for part in (slice(0, 1), slice(1, 3)):
        loss(parts[part], target[part], None).sum().div(B).backward()
    assert whole.grad is not None and parts.grad is not None
    assert torch.allclose(whole.grad, parts.grad, atol=1e-7)
