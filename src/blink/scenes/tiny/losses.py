"""Training losses of the tiny backbone: linear read-outs of its patch features, and the loss of a batch in each stage.

Legend: B pictures, C = 3, Y X pixels, V visual tokens (144), K of them kept, S tokens, D = 128 channels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from blink.runs.machine import cpu_has_bfloat16
from blink.scenes.draw import COLOURS, SHAPES
from blink.scenes.tiny import packed_attention as packed
from blink.scenes.tiny.lessons import PatchBatch, QuestionBatch
from blink.scenes.tiny.model import WIDTH, build_model, build_processor
from blink.scenes.tiny.stages import Stage

FAST_BFLOAT16 = cpu_has_bfloat16()
"""Whether this CPU computes in bfloat16; one that emulates it is faster in float32."""


class PatchHeads(nn.Module):
    """Linear read-outs of a patch's colour, shape, object centre, and whether the centre is here."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Linear(WIDTH, 1 + len(COLOURS))
        self.shape = nn.Linear(WIDTH, 1 + len(SHAPES))
        self.centre = nn.Linear(WIDTH, 2)
        self.is_centre = nn.Linear(WIDTH, 1)

    def loss(self, features_BVD: torch.Tensor, batch: PatchBatch) -> torch.Tensor:
        weight_BV = torch.where(batch.colour_BV > 0, 1.0, 0.1)
        total = weight_BV.sum()

        def mean(value_BV: torch.Tensor) -> torch.Tensor:
            return (value_BV * weight_BV).sum() / total

        colour = F.cross_entropy(self.colour(features_BVD).transpose(1, 2), batch.colour_BV, reduction="none")
        shape = F.cross_entropy(self.shape(features_BVD).transpose(1, 2), batch.shape_BV, reduction="none")
        error_BV = (self.centre(features_BVD) - batch.centre_BV2).abs().sum(-1) * (batch.colour_BV > 0)
        here = F.binary_cross_entropy_with_logits(
            self.is_centre(features_BVD)[..., 0], batch.is_centre_BV, reduction="none"
        )
        return mean(colour) + mean(shape) + 4 * mean(error_BV) + mean(here)

    @torch.no_grad()
    def shape_accuracy(self, features_BVD: torch.Tensor, batch: PatchBatch) -> float:
        """Share of object patches whose shape is read right."""
        right = self.shape(features_BVD).argmax(-1) == batch.shape_BV
        return right[batch.colour_BV > 0].float().mean().item()


class Learner:
    """The untrained model, its read-outs, and the loss of each stage's batches.

    Args:
        seed: of all weights.
        compiled: whether decoder and vision layers go through `torch.compile`.
    """

    def __init__(self, seed: int, compiled: bool) -> None:
        torch.manual_seed(seed)
        self.processor: LlavaProcessor = build_processor()
        self.tokenizer = self.processor.tokenizer
        self.model: LlavaForConditionalGeneration = build_model(self.tokenizer, seed)
        self.heads = PatchHeads()
        self.language = self.model.model.language_model
        self.language.config._attn_implementation = packed.NAME
        words = [self.tokenizer.convert_tokens_to_ids(list(names)) for names in (COLOURS, SHAPES)]
        self.colour_ids, self.shape_ids = (torch.tensor(ids) for ids in words)
        self.place_code = torch.randn(18, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.15
        tower = self.model.model.vision_tower
        tower.config._attn_implementation = "eager"  # on a CPU its backward is twice as fast as sdpa's here
        if compiled:
            for layer in (*tower.encoder.layers, *self.language.layers):
                layer.compile(dynamic=False)

    def trained(self, stage: Stage) -> dict[str, nn.Parameter]:
        """Names and parameters that a stage trains; all others are frozen."""
        parts: dict[str, list[tuple[str, nn.Module]]] = {
            "vision": [("tower.", self.model.model.vision_tower), ("heads.", self.heads)],
            "projector": [("projector.", self.model.model.multi_modal_projector)],
            "language": [
                ("projector.", self.model.model.multi_modal_projector),
                ("language.", self.language),
                ("head.", self.model.lm_head),
            ],
            "all": [("", self.model)],
        }
        for module in (self.model, self.heads):
            module.requires_grad_(False)
        chosen = {}
        for prefix, module in parts[stage.trains]:
            module.requires_grad_(True)
            chosen.update({prefix + name: weight for name, weight in module.named_parameters()})
        return chosen

    def features(self, pixels_BCYX: torch.Tensor) -> torch.Tensor:
        """Patch features of the tower, [B, V, width]."""
        return self.model.model.vision_tower(pixels_BCYX).last_hidden_state[:, 1:]

    def loss(self, stage: Stage, batch: PatchBatch | QuestionBatch) -> tuple[torch.Tensor, float]:
        """Loss of a batch, and the accuracy on its labels (0 for the projector)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=FAST_BFLOAT16):
            if isinstance(batch, QuestionBatch):
                logits, targets = self.answer_logits(batch), batch.targets_BS[batch.targets_BS != -100]
                right = (logits.argmax(-1) == targets).float().mean().item()
                return F.cross_entropy(logits, targets), right
            features_BVD = self.features(batch.pixels_BCYX)
        if stage.trains == "vision":
            right = self.heads.shape_accuracy(features_BVD.float(), batch)
            return self.heads.loss(features_BVD.float(), batch), right
        projected = self.model.model.multi_modal_projector(features_BVD.float())
        return F.mse_loss(projected, self.projector_target(batch)), 0.0

    @torch.no_grad()
    def projector_target(self, batch: PatchBatch) -> torch.Tensor:
        """Word embeddings of colour and shape, plus a code of the object's centre; zero for background."""
        table = self.language.embed_tokens.weight
        shown_BV1 = (batch.colour_BV > 0)[..., None]
        colour = table[self.colour_ids[(batch.colour_BV - 1).clamp(min=0)]]
        shape = table[self.shape_ids[(batch.shape_BV - 1).clamp(min=0)]]
        angles = [batch.centre_BV2 * torch.pi * scale for scale in (0.5, 1, 2, 4)]
        waves = [wave(angle) for angle in angles for wave in (torch.sin, torch.cos)]
        code = torch.cat([*waves, batch.is_centre_BV[..., None], torch.ones_like(shown_BV1)], -1)
        return (colour + shape + code.float() @ self.place_code) * shown_BV1

    def answer_logits(self, batch: QuestionBatch) -> torch.Tensor:
        """Logits at the response tokens of a batch, in row-major order, [responses, vocabulary]."""
        features_BVD = self.model.model.multi_modal_projector(self.features(batch.pixels_BCYX))
        index = batch.kept_BK[..., None].expand(-1, -1, WIDTH)
        embedded = self.language.embed_tokens(batch.ids_BS)
        system = batch.prefix_length - batch.kept_BK.shape[1]
        embedded = torch.cat(
            (
                embedded[:, :system],
                features_BVD.gather(1, index).to(embedded.dtype),
                embedded[:, batch.prefix_length :],
            ),
            dim=1,
        )
        hidden = self.language(
            inputs_embeds=embedded,
            attention_mask=torch.zeros(1, 1, 1, 1),  # four axes: transformers then builds none of its own
            position_ids=batch.positions_BS,
            use_cache=False,
            prefix_length=batch.prefix_length,
            question_length=batch.question_length,
        ).last_hidden_state
        return self.model.lm_head(hidden[batch.targets_BS != -100]).float()
