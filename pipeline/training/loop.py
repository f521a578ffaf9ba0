"""The training loop: crops, loss, steps; evaluations and checkpoints; a bundle at the end.

A step depends only on the seed, the weights and the step's number. So an interrupted training
continues from its checkpoint to the same weights, on the same machine with as many threads. GPU
code (halves with scaled gradients) was never run on a GPU.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import JobError, OutputError, ResumeError
from pipeline.execution.result import Event, Watch, silent
from pipeline.networks import architectures
from pipeline.networks import card as cards
from pipeline.networks.loaded import available, threads
from pipeline.networks.receptive_field import Sight
from pipeline.segmenters.decoders.affinities import Panoptic, Semantic
from pipeline.training import pictures
from pipeline.training.appraisal import Shown, appraise, score
from pipeline.training.objectives import objective
from pipeline.training.recipe import Recipe
from pipeline.training.samples import Example, batch, gathered
from pipeline.version import __version__

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.pt"
WARM = 0.05
"""The fraction of all steps over which the learning rate rises."""
MEMORY = 100
"""Steps over which weights are averaged: the means are evaluated and shipped, because single steps
are noisy.
"""
LONGEST = 5.0
"""Gradients are clipped to this norm."""
Say = Callable[[str], None]


@dataclass(slots=True)
class State:
    """The state of a training, which a checkpoint holds."""

    network: torch.nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    sight: Sight
    judged: torch.nn.Module
    """The same network with averaged weights."""

    step: int = 0
    seconds: float = 0.0
    """Time spent on steps and evaluations, over all sessions."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best: float = -1.0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """The best weights so far."""

    stale: int = 0
    """Evaluations since the best one."""


def train(
    recipe: Recipe,
    folder: Path,
    *,
    fresh: bool = False,
    watch: Watch = silent,
    say: Say = lambda _line: None,
) -> Path:
    """Train a network, or continue a training.

    Parameters
    ----------
    recipe : Recipe
        The network, the data and the options.
    folder : Path
        The output: the bundle (the card's name with ``.safetensors``), the checkpoint, ``log.txt``,
        ``curves.png`` and ``predictions.png``.
    fresh : bool, optional
        Whether to ignore what the folder holds.
    watch : callable, optional
        Called with progress.
    say : callable, optional
        Called with a line for each evaluation.

    Returns
    -------
    Path
        The bundle. Its card has the measured ``stride`` and ``reach``, what it was trained on, and
        the measures on held-out images of the weights as written.

    Raises
    ------
    JobError
        The recipe does not fit the data, or a package is missing.
    ResumeError
        The folder holds a training by another recipe.
    OutputError
        The folder cannot be written.
    """
    bundle = folder / recipe.file
    mark = recipe.fingerprint()
    if bundle.exists() and not fresh:
        if cards.read(str(bundle)).card.training.get("recipe") != mark:
            raise ResumeError(
                f"{bundle} was trained by another recipe; give another folder, or train anew: "
                f"--fresh"
            )
        say(f"{bundle}: complete already")
        return bundle
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
    learned, held = gathered(recipe)
    for old in (bundle, folder / CHECKPOINT) if fresh else ():
        old.unlink(missing_ok=True)
    state = _begun(recipe, folder / CHECKPOINT, mark)
    log = _logged(folder / "log.txt", say, anew=state.step == 0)
    _learn(
        recipe, state, (learned, held), watch, log, lambda: _keep(state, folder / CHECKPOINT, mark)
    )
    return _finish(recipe, state, learned, held, bundle, log)


def _begun(recipe: Recipe, checkpoint: Path, mark: str) -> State:
    """A training at its first step, or at its checkpoint's."""
    import torch

    torch.set_num_threads(threads())
    torch.manual_seed(recipe.train.seed)
    device = available(recipe.train.device)
    network = architectures.build(recipe.card).to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.train.learning_rate, weight_decay=recipe.train.decay
    )
    scaler = torch.amp.GradScaler(
        device.split(":")[0], enabled=recipe.train.precision == "float16" and device != "cpu"
    )
    judged = copy.deepcopy(network).eval()
    if not checkpoint.exists():
        sight = objective(recipe.card, recipe.decoder).sight(judged, recipe.train.crop)
        return State(network, optimiser, scaler, sight, judged)
    found = _loaded(checkpoint, device)
    if found["recipe"] != mark:
        raise ResumeError(
            f"{checkpoint} is of a training by another recipe; give another folder, or train "
            f"anew: --fresh"
        )
    for one, name in ((network, "network"), (judged, "judged")):
        one.load_state_dict(found[name])
    optimiser.load_state_dict(found["optimiser"])
    scaler.load_state_dict(found["scaler"])
    plain = {
        name: found[name] for name in ("step", "seconds", "history", "best", "weights", "stale")
    }
    return State(network, optimiser, scaler, Sight(*found["sight"]), judged, **plain)


def _loaded(checkpoint: Path, device: str) -> dict[str, Any]:
    """Read a checkpoint; ResumeError if it is damaged."""
    import torch

    try:
        found = torch.load(checkpoint, map_location=device, weights_only=True)
        _ = found["recipe"], found["sight"]
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise ResumeError(
            f"{checkpoint} is damaged, or no checkpoint; give another folder, or train anew: "
            f"--fresh"
        ) from error
    return dict(found)


def _keep(state: State, path: Path, mark: str) -> None:
    """Write a checkpoint atomically."""
    import torch

    plain = {
        name: getattr(state, name)
        for name in ("step", "seconds", "history", "best", "weights", "stale")
    }
    parts = {
        name: getattr(state, name).state_dict()
        for name in ("network", "judged", "optimiser", "scaler")
    }
    new = path.with_suffix(".new")
    try:
        torch.save(
            {"recipe": mark, "sight": [state.sight.stride, state.sight.reach], **plain, **parts},
            new,
        )
        new.replace(path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path} cannot be written: {error}") from error


def _learn(
    recipe: Recipe,
    state: State,
    pairs: tuple[Sequence[Example], Sequence[Example]],
    watch: Watch,
    log: Say,
    keep: Callable[[], None],
) -> None:
    """Take steps until the last one, the time limit, or no more improvement."""
    train = recipe.train
    losses: list[float] = []
    limit = math.inf if train.minutes is None else 60 * train.minutes
    event = Event("train", state.step, train.steps)
    watch(event)
    begin = time.monotonic() - state.seconds
    while (
        state.step < train.steps
        and state.seconds < limit
        and (train.patience is None or state.stale < train.patience)
    ):
        losses.append(
            _stepped(recipe, state, pairs[0], max(state.step / train.steps, state.seconds / limit))
        )
        state.step += 1
        state.seconds = time.monotonic() - begin
        watch(dataclasses.replace(event, done=state.step, at=time.monotonic()))
        if state.step % train.every == 0 or state.step == train.steps or state.seconds >= limit:
            _judge(recipe, state, pairs[1], float(np.mean(losses)), log)
            losses.clear()
            state.seconds = time.monotonic() - begin
            keep()


def _stepped(recipe: Recipe, state: State, pairs: Sequence[Example], done: float) -> float:
    """Take one step and return the loss; ``done`` is the fraction of all steps before it."""
    import torch

    train = recipe.train
    network = state.network
    for group in state.optimiser.param_groups:
        group["lr"] = train.learning_rate * (
            done / WARM if done < WARM else (1 + math.cos(math.pi * (done - WARM) / (1 - WARM))) / 2
        )
    torch.manual_seed((train.seed << 32) + state.step)  # for what networks draw themselves
    images, wanted = batch(pairs, recipe, state.step)
    network.train()
    found = objective(recipe.card, recipe.decoder).loss(network, images, wanted, train.precision)
    if not bool(torch.isfinite(found)):
        raise JobError(
            f"the loss is {float(found)} at step {state.step}; lower train.learning_rate, or "
            f"take precision: float32"
        )
    state.optimiser.zero_grad(set_to_none=True)
    state.scaler.scale(found).backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimiser)
    torch.nn.utils.clip_grad_norm_(network.parameters(), LONGEST)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    share = 1 / min(MEMORY, 1 + state.step / 5)
    for mean, now in zip(
        state.judged.state_dict().values(), network.state_dict().values(), strict=True
    ):
        mean.copy_(mean.lerp(now, share) if mean.is_floating_point() else now)
    return float(found.detach())


def _judge(recipe: Recipe, state: State, held: Sequence[Example], mean: float, log: Say) -> None:
    """Evaluate, and keep the weights if they are the best so far (the last ones without held-out
    images).
    """
    measures, _ = _appraised(recipe, state, held)
    now = score(measures)
    better = now > state.best or not held
    if better:
        state.best = now
        state.stale = 0
        state.weights = {
            name: tensor.detach().cpu().clone()
            for name, tensor in state.judged.state_dict().items()
        }
    else:
        state.stale += 1
    state.history.append({"step": state.step, "loss": mean, "score": now})
    figures = ", ".join(
        f"{name} {measures[name]:.4f}"
        for name in ("f1", "precision", "recall", "ap", "pq", "sq", "rq", "iou", "accuracy")
        if name in measures
    )
    mark = ", the best" if better and held else ""
    log(
        f"step {state.step}: loss {mean:.4f}{', ' if figures else ''}{figures}{mark}; "
        f"{state.seconds:.0f} s"
    )


def _appraised(
    recipe: Recipe, state: State, held: Sequence[Example]
) -> tuple[dict[str, Any], list[Shown]]:
    seen = dataclasses.replace(recipe.card, stride=state.sight.stride, reach=state.sight.reach)
    return appraise(held, recipe.decoder, objective(seen, recipe.decoder).draw(state.judged))


def _finish(
    recipe: Recipe,
    state: State,
    learned: Sequence[Example],
    held: Sequence[Example],
    bundle: Path,
    log: Say,
) -> Path:
    """Write the bundle of the best weights, and the pictures."""
    train = recipe.train
    halved = {
        name: t.half().float() if train.half and t.is_floating_point() else t
        for name, t in state.weights.items()
    }
    state.judged.load_state_dict(halved)
    measures, shown = _appraised(recipe, state, held)
    told = {
        name: getattr(train, name)
        for name in ("steps", "batch", "crop", "learning_rate", "decay", "seed", "precision")
    }
    training = {
        "images": sorted(pair.name for pair in learned),
        **told,
        "augment": dataclasses.asdict(train.augment),
        "minutes": round(state.seconds / 60, 1),
        "tilewise": __version__,
        "recipe": recipe.fingerprint(),
    }
    what = {Semantic: "classes", Panoptic: "segments"}.get(
        type(recipe.decoder), "objects, at an IoU of 0.5"
    )
    metrics = (
        {"of": f"{what}, on held-out images by which the best weights were chosen", **measures}
        if measures
        else {}
    )
    card = dataclasses.replace(
        recipe.card,
        stride=state.sight.stride,
        reach=state.sight.reach,
        sha256=None,
        training=training,
        metrics=metrics,
    )
    pictures.curves(bundle.with_name("curves.png"), state.history)
    pictures.predictions(bundle.with_name("predictions.png"), shown)
    architectures.save(card, state.judged, str(bundle), half=train.half)
    log(
        f"{bundle}: {bundle.stat().st_size / 1e6:.1f} MB, stride {card.stride}, reach "
        f"{card.reach}, {measures or 'nothing held out'}"
    )
    return bundle


def _logged(path: Path, say: Say, *, anew: bool) -> Say:
    """A function that says a line and appends it to a file."""
    if anew:
        path.unlink(missing_ok=True)

    def log(line: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        say(line)

    return log
