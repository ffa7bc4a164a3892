"""Training seven layers in one pass over training the top one alone: `python -m benchmarks.training`.

And training from features on disk over training with the backbone, training on answers over training by KL, and what of
the backbone is in memory while one layer is trained.
"""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.common import Bench, Options, Row, Times, interleave, tiny, wide
from benchmarks.report import main
from blink.evaluation.answering.cost import training_step
from blink.model.backbone import Backbone
from blink.model.checkpoints import load_backbone
from blink.model.dimensions import Dimensions
from blink.model.prompts import template_of
from blink.model.views import VIEWS, ViewMaker, Views, prefix_ids
from blink.scenes.draw import SceneImages
from blink.training.answers.lessons import ImageLessons, Lesson, LessonMaker
from blink.training.answers.questions import SceneQuestions
from blink.training.features.states import Batch, Features, trunk_features
from blink.training.features.store import FeatureStore
from blink.training.images import DrawnImages
from blink.training.module import TokenSRTraining

BAR = 1.7

WHY = (
    "The trunk is shared, the modules are not: each has its own forward and backward pass, which FLOPs on paper "
    "put beside it. On the tiny backbone a module costs as much as several of its narrow layers."
)


def on_tiny(options: Options) -> Iterator[Row]:
    """Layers 9-15 and 15, as many as the bar names, as far up as this backbone goes; and layer 9 from disk."""
    repeats = options.repeats or (1 if options.quick else 5)
    yield memory()
    yield from on_answers(repeats)
    bench = tiny()
    layers, top = tuple(range(9, 16)), (15,)
    times = compare(bench, layers, top, images=2, repeats=repeats)
    floor = step_flops(bench.dims, layers) / step_flops(bench.dims, top)
    yield Row.at_most(
        BAR, "training layers 9-15 in one pass / layer 15 alone", bench.name, times, floor=floor
    )
    yield from_disk(bench, (9,), images=2, times=disk_times(bench, (9,), images=2, repeats=repeats))


def on_wide(options: Options) -> Iterator[Row]:
    """The top one of a few layers, from disk and with the backbone; from both, 12-18 and 18 of the full model.

    One module of true width takes 4 GB with its gradients and AdamW's moments, so there is only one.
    """
    repeats = options.repeats or (1 if options.quick else 2)
    for bench in wide(options._replace(hidden=options.hidden // 2), layers=2, dtypes=("float32",)):
        layers = (bench.dims.layers,)
        times = disk_times(bench, layers, images=1, repeats=repeats)
        yield carried_over(bench, times)
        yield from_disk(bench, layers, images=1, times=times)


def carried_over(bench: Bench, times: Times) -> Row:
    """Put a module's and the trunk's share of a step together as in the full model.

    Args:
        times: of the top layer's steps from disk, which are a module's share, and with the backbone.
    """
    values = [
        full_size_ratio(bench.dims, alone + module, alone)
        for module, alone in zip(times.ours, times.theirs, strict=True)
    ]
    module, alone = statistics.median(times.ours), statistics.median(times.theirs)
    value = full_size_ratio(bench.dims, alone + module, alone)
    full = _deeper(bench.dims, 32)
    return Row(
        "training layers 12-18 in one pass / layer 18 alone, carried over",
        bench.name,
        value,
        min(values),
        max(values),
        f"<= {BAR}",
        value <= BAR,
        step_flops(full, tuple(range(12, 19))) / step_flops(full, (18,)),
        f"from a step of one image: {alone:.3g} s with the backbone, {module:.3g} s the module alone",
    )


def memory() -> Row:
    """What of the backbone training layer 8 loads, and how many tensors its pass keeps for a backward pass."""
    backbone = load_backbone("tiny", num_layers=8)
    module = TokenSRTraining(backbone, (8,))
    prefix = prefix_ids(backbone.processor, "USER: ")
    module.token_sr.requires_grad_(False)  # what is kept for a backward pass is the backbone's then
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module.quadrant_features(_views(backbone, prefix, 1))
    layers = backbone.num_layers
    return Row(
        "training layer 8: decoder layers above it in memory, activations kept for the backbone",
        "tiny",
        float(layers - 8 + len(kept)),
        float(layers - 8),
        float(len(kept)),
        "0",
        layers == 8 and not kept,
        None,
        f"{layers} decoder layers loaded",
    )


def on_answers(repeats: int) -> Iterator[Row]:
    """Steps of layer 7 on answers over steps by KL, on the same two scenes: time, and activations kept for backward."""
    backbone = load_backbone("tiny")
    template = template_of(backbone.processor)
    scenes = DrawnImages(SceneImages("token_sr", 2, 0), "scenes")
    lessons = ImageLessons(
        scenes,
        SceneQuestions("token_sr", 0),
        LessonMaker(backbone.processor, template),
        ViewMaker(backbone.processor, template.prefix, backbone.grid),
    )
    batch = lessons.join([lessons[0], lessons[1]])
    answers, kl = (
        Steps(TokenSRTraining(backbone, (7,), kl_weight=1.0 - weight, answer_weight=weight))
        for weight in (1.0, 0.0)
    )
    questions = sum(len(asked.ids_nS) for asked in batch.asked)
    what = "training layer 7 on answers / by KL"
    times = interleave(lambda: answers(batch), lambda: kl(batch), repeats)
    note = f"two pictures, {questions} questions, 8 quadrants"
    yield Row(what, "tiny", times.ratio, min(times.ratios), max(times.ratios), "none", True, None, note)
    kept = [_kept_megabytes(step, batch) for step in (answers, kl)]
    ratio = kept[0] / kept[1]
    note = f"{kept[0]:.0f} MB and {kept[1]:.0f} MB"
    yield Row(f"{what}: activations kept", "tiny", ratio, ratio, ratio, "none", True, None, note)


def _kept_megabytes(step: "Steps", batch: Lesson) -> float:
    """Tensors that a step keeps for its backward pass, each storage once, the modules' weights left out."""
    own = {weight.untyped_storage().data_ptr() for weight in step.module.parameters()}
    own |= {weight.untyped_storage().data_ptr() for weight in step.module.backbone.model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # held, so that no storage takes the place of another

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step.module.losses(batch)
    return (
        sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own) / 2**20
    )


def disk_times(bench: Bench, layers: tuple[int, ...], *, images: int, repeats: int) -> Times:
    """Time steps of the same modules, with features from disk and with features that the backbone computes."""
    batch, names = batch_of(bench, images), [str(image) for image in range(images)]
    (features,) = trunk_features(bench.backbone, batch, layers)
    states = features.states
    with TemporaryDirectory(prefix="blink-") as folder:
        H, W = next(iter(states.values())).shape[-3:-1]
        shape = (VIEWS, H, W, bench.dims.hidden)
        store = FeatureStore(Path(folder), {}, shape, notes={})
        rows = store.rows(names)
        for image, (row, name) in enumerate(zip(rows, names, strict=True)):
            store.write(row, name, {layer: state[image] for layer, state in states.items()})
        store.commit()
        del states, features

        def read() -> list[Features]:
            found = [store.read(row, layers, bench.model.dtype) for row in rows]
            joined = {layer: torch.stack([states[layer] for states in found]) for layer in layers}
            return [Features({layer: state.to(bench.model.device) for layer, state in joined.items()})]

        step = Steps(module_of(bench, layers))
        return interleave(lambda: step(read()), lambda: step(batch), repeats, warm_up=images > 1)


def from_disk(bench: Bench, layers: tuple[int, ...], *, images: int, times: Times) -> Row:
    """A step whose features are read over one whose features the backbone computes: a second epoch over the first."""
    one = training_step(bench.dims, layers, prefix=35, images=images, cached=True).flops
    rates = [images / statistics.median(seconds) for seconds in times]
    return Row(
        f"training layer {layers[-1]} from features on disk / with the backbone",
        bench.name,
        times.ratio,
        min(times.ratios),
        max(times.ratios),
        "< 1",
        times.ratio < 1,
        one / training_step(bench.dims, layers, prefix=35, images=images).flops,
        f"{rates[0]:.2g} and {rates[1]:.2g} images/s",
    )


def compare(
    bench: Bench, layers: tuple[int, ...], top: tuple[int, ...], *, images: int, repeats: int
) -> Times:
    """Time whole steps: trunk, modules forward and backward, AdamW."""
    batch = batch_of(bench, images)
    ours, theirs = (Steps(module_of(bench, trained)) for trained in (layers, top))
    return interleave(lambda: ours(batch), lambda: theirs(batch), repeats)


class Steps:
    """Optimizer steps."""

    def __init__(self, module: TokenSRTraining) -> None:
        self.module = module.to(module.backbone.device)
        self.optimizer = torch.optim.AdamW(module.token_sr.parameters(), lr=1e-4)

    def __call__(self, batch: Batch | Lesson) -> None:
        torch.stack(list(self.module.losses(batch).values())).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def module_of(bench: Bench, layers: tuple[int, ...]) -> TokenSRTraining:
    return TokenSRTraining(bench.backbone, layers)


def batch_of(bench: Bench, images: int) -> Views:
    prefix = prefix_ids(bench.processor, bench.template.prefix)
    return _views(bench.backbone, prefix, images)


def full_size_ratio(dims: Dimensions, both: float, alone: float) -> float:
    """Layers 12-18 over 18, from the seconds of two layers and of one: the difference is a module's."""
    module = both - alone
    trunk_flops = (
        training_step(dims, (dims.layers,), 35, 1).flops
        - training_step(dims, (dims.layers,), 35, 1, cached=True).flops
    )
    full = _deeper(dims, 18)
    full_flops = step_flops(full, (18,)) - training_step(full, (18,), 35, 1, cached=True).flops
    trunk = (alone - module) * full_flops / trunk_flops
    return (trunk + 7 * module) / (trunk + module)


def step_flops(dims: Dimensions, layers: tuple[int, ...]) -> int:
    return training_step(dims, layers, prefix=35, images=1).flops


def _deeper(dims: Dimensions, layers: int) -> Dimensions:
    """With so many decoder layers, and the published depth of the vision tower."""
    return replace(dims, layers=layers, tower=replace(dims.tower, layers=24))


def _views(backbone: Backbone, prefix_ids_1P: torch.Tensor, images: int) -> Views:
    """Views of random pixels, on the backbone's device."""
    side = backbone.model.config.vision_config.image_size
    picture = torch.full((1, backbone.family.tokens_per_view), backbone.image_token_id)
    inputs = {
        "input_ids": torch.cat((prefix_ids_1P, picture), dim=1).expand(VIEWS * images, -1),
        "pixel_values": torch.rand(VIEWS * images, 3, side, side),
    }
    on_device = {name: value.to(backbone.device) for name, value in inputs.items()}
    return Views((on_device,), (torch.arange(VIEWS * images),))


if __name__ == "__main__":
    main("training", __doc__, (on_tiny, on_wide), WHY)
