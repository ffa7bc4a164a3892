"""Train the tiny backbone on scenes, in stages: ``python -m blink.scenes.tiny.train``.

1. *vision*: the tower learns what each patch shows (colour, shape, centre of its object), from dense labels.
2. *projector*: regresses each patch onto the sum of the word embeddings of what it shows, plus a code of where.
3. *basics*: the language model learns to look things up, on easy pictures, with background tokens left out.
4. *mixture*: every kind of question, every difficulty.
5. *places*: the same, with more of what comes last: colours, places and relations.
6. *pairs*: again, with more of what takes two objects or all of them: relations and counts.
7. *whole*: all visual tokens, all weights, learning rate to zero.
8. *relations*: once more with background left out, half of it about two objects or places.
9. *final*: all visual tokens, all weights, learning rate to zero.
10. *balance*: from the mean of what *whole* and *final* end with, which is better than both; every kind again.
11. *corners*: on from there, with more of where things are.
12. *nine*: from the mean of what *balance* and *corners* end with, where things are above all.
13. *mean*: no steps; the mean of what *balance* and *nine* end with is shipped.

Matrices of the decoder layers are trained with Muon, all else with AdamW. The state is saved every few minutes, and
the same command goes on from there; batches follow from (stage, step), so nothing is repeated or left out.
"""

import argparse
import logging
import time
from pathlib import Path

import torch
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_model, save_model
from torch.utils.data import DataLoader, Subset
from transformers import LlavaForConditionalGeneration

from blink.runs.values import UserError
from blink.scenes.ask import QUESTION_KINDS
from blink.scenes.tiny.lessons import PatchLessons, QuestionLessons
from blink.scenes.tiny.losses import Learner
from blink.scenes.tiny.muon import Muon
from blink.scenes.tiny.stages import STAGES, Stage

log = logging.getLogger(__name__)


class Trainer:
    """Runs the stages, and keeps their state in a folder.

    Args:
        folder: for the state and the weights that stages end with.
        seed: of all weights.
        compiled: whether layers go through `torch.compile`.
    """

    def __init__(self, folder: Path, seed: int, compiled: bool) -> None:
        self.folder = folder
        self.save_seconds = 120.0
        self.learner = Learner(seed, compiled)
        self.model, self.heads = self.learner.model, self.learner.heads

    def optimizers(self, stage: Stage) -> list[torch.optim.Optimizer]:
        weights = self.learner.trained(stage)
        matrices = [w for name, w in weights.items() if ".layers." in name and w.ndim == 2]
        others = [w for name, w in weights.items() if not (".layers." in name and w.ndim == 2)]
        adam = torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        if not matrices:
            return [adam]
        muon = Muon(matrices, lr=stage.rate, weight_decay=0.01)
        return [muon, adam]

    def lessons(self, stage: Stage) -> PatchLessons | QuestionLessons:
        if stage.course is None:
            return PatchLessons(stage.name, stage.batch, stage.steps)
        return QuestionLessons(stage.name, stage.course, self.learner.tokenizer, stage.batch, stage.steps)

    def start_from(self, folder: Path) -> None:
        """Take the weights of a trained backbone; a saved state of this run still comes first."""
        trained = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(trained.state_dict())

    def run(self, stages: tuple[Stage, ...], first: int = 0) -> None:
        """Run (or go on with) the stages from number ``first`` on, saving as it goes."""
        state_file = self.folder / "state.pt"
        done, saved = 0, None
        if state_file.exists():
            saved = torch.load(state_file, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.heads.load_state_dict(saved["heads"])
            first, done = saved["stage"], saved["step"]
            log.info(
                "resuming at stage %s, step %d", stages[first].name if first < len(stages) else "end", done
            )
        for number in range(first, len(stages)):
            stage = stages[number]
            if stage.average and not done:
                self._average(*stage.average)
            optimizers = self.optimizers(stage)
            if saved and done:
                for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
                    optimizer.load_state_dict(state)
            self._run_stage(number, stage, optimizers, done)
            done, saved = 0, None
            self.save_weights(stage.name)
            self._save(number + 1, 0, [])

    def save_weights(self, stage: str) -> None:
        """Keep the weights that a stage ends with."""
        save_model(self.model, str(self.folder / f"{stage}.safetensors"))

    @torch.no_grad()
    def _average(self, stage: str, share: float) -> None:
        """Mix in `share` of the weights that an earlier stage ended with.

        Raises:
            ValueError: this folder does not hold them.
        """
        kept = self.folder / f"{stage}.safetensors"
        if not kept.is_file():
            raise UserError(
                f"{kept} is missing: begin with stage {stage} or before, or put its weights there"
            )
        now = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        load_model(self.model, kept)
        for name, weight in self.model.state_dict().items():
            weight.lerp_(now[name], 1 - share)

    def _save(self, stage: int, step: int, optimizers: list[torch.optim.Optimizer]) -> None:
        state = {
            "stage": stage,
            "step": step,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }
        partial = self.folder / "state.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "state.pt")

    def _run_stage(
        self, number: int, stage: Stage, optimizers: list[torch.optim.Optimizer], done: int
    ) -> None:
        lessons = Subset(self.lessons(stage), range(done, stage.steps))
        loader = DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=6)
        weights = [w for optimizer in optimizers for group in optimizer.param_groups for w in group["params"]]
        since = time.monotonic()
        mean: torch.Tensor | None = None
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task(stage.name, total=stage.steps, completed=done)
            for step, batch in enumerate(loader, start=done):
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = stage.rate_at(step)
                loss, right = self.learner.loss(stage, batch)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                now = torch.tensor((loss.item(), right))
                mean = now if mean is None else 0.98 * mean + 0.02 * now
                bar.update(task, advance=1, description=f"{stage.name} loss {mean[0]:.3f}")
                if (step + 1) % 100 == 0:
                    log.info("%s step %d: loss %.4f, right %.3f", stage.name, step + 1, *mean.tolist())
                if time.monotonic() - since > self.save_seconds:
                    self._save(number, step + 1, optimizers)
                    since = time.monotonic()

    def export(self, folder: Path) -> None:
        """Write the model (bf16 safetensors), tokenizer and processor in the ordinary Hugging Face layout."""
        for part in (self.model.model.language_model, self.model.model.vision_tower):
            part.config._attn_implementation = "sdpa"
        self.model.to(torch.bfloat16).save_pretrained(folder)
        self.learner.processor.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m blink.scenes.tiny.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/tiny"), help="state and result (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--no-compile", action="store_true", help="skip torch.compile (slower steps, instant start)"
    )
    parser.add_argument(
        "--start", type=Path, help="begin with the weights of this backbone (a Hugging Face folder)"
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument(
        "--stage", default=names[0], choices=names, help="first stage to run (default: %(default)s)"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    options.folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options.folder, options.seed, compiled=not options.no_compile)
    log.info("training the tiny backbone: kinds %s; state in %s", ", ".join(QUESTION_KINDS), options.folder)
    first = names.index(options.stage)
    if options.start:
        trainer.start_from(options.start)
        if first:
            trainer.save_weights(names[first - 1])
    trainer.run(STAGES, first)
    trainer.export(options.folder / "backbone")
    log.info("wrote %s", options.folder / "backbone")


if __name__ == "__main__":
    main()
