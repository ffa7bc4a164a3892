"""Run: one way to answer, a policy and the modules that it expands with, checked against a backbone."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from blink.inference.policy import Policy, check_layers, check_policy
from blink.model.backbone import Backbone
from blink.model.fingerprint import same_checkpoint
from blink.model.token_sr import check_modules, check_patches, placed
from blink.model.token_sr.files import load_token_sr, token_sr_config
from blink.runs.values import UserError


@dataclass(frozen=True)
class Run:
    """One way to answer: a policy, and the modules that it expands with.

    Attributes:
        policy: None is the backbone as it is.
        token_sr: None for interpolation only (Blink-interp); a folder of `save_token_sr`, a hub id ("name/repo" or
            "name/repo@revision") or "tiny", the modules that ship with that backbone; or a mapping from layer to any module [B, d, H, W] -> [B, d, H, W]. Modules of another dtype or device than the model's are
            copied once, with a warning if their weights require grad: the caller's get no gradient then, and later
            changes of them have no effect.
    """

    policy: Policy | None = None
    token_sr: str | os.PathLike[str] | Mapping[int, nn.Module] | None = None

    @property
    def modules(self) -> Mapping[int, nn.Module]:
        """TokenSR per layer, of a resolved run; a scanned layer without one is interpolated only."""
        assert self.token_sr is None or isinstance(self.token_sr, Mapping), "resolve a run before it is used"
        return self.token_sr or {}

    @property
    def encodes(self) -> bool:
        """Whether expansions need the region of the original picture, encoded anew."""
        return self.policy is not None and any(
            encodes(self.policy.source, self.modules.get(layer)) for layer in self.policy.layers
        )

    def scans(self, layer: int) -> bool:
        """Whether the policy scans `layer`."""
        return self.policy is not None and layer in self.policy.layers

    def resolve(self, backbone: Backbone) -> "Run":
        """Check that the run fits a model, and read its modules where `token_sr` is a folder or a hub id.

        Returns:
            A run whose `token_sr` is a mapping with a module for each scanned layer and no others, or None.

        Raises:
            ValueError: a scanned layer does not exist or lacks a module, patches do not fit the grid, modules are of
                another width or none, or given though regions are encoded, or "similarity" needs projections that the layers do
                not have.
        """
        if self.policy is None:
            return Run()
        check_policy(self.policy)
        layers, width = self.policy.layers, backbone.hidden_size
        if backbone.grid is not None:  # else it is each prompt's
            check_patches(self.policy.patches, backbone.grid)
        check_layers(layers, backbone.num_layers)
        if self.policy.saliency == "similarity":
            for layer in layers:
                backbone.check_projections(layer)
        if self.token_sr is None:
            return self
        if self.policy.source == "encode":
            raise UserError(
                "source='encode' takes no token_sr: an extension is made of the encoded region itself; leave token_sr out, or "
                "use source='coarse'"
            )
        modules: Mapping[int, nn.Module]
        if isinstance(self.token_sr, Mapping):
            modules, source = self.token_sr, "the mapping"
        elif not isinstance(self.token_sr, str | os.PathLike):
            raise UserError(
                f"token_sr is of type {type(self.token_sr).__name__}; expected None, a folder, a hub id, or a mapping from "
                "layer to module, as in {12: module}"
            )
        else:
            modules, source = load_token_sr(self.token_sr, channels=width, layers=layers), str(self.token_sr)
            _warn_of_another_backbone(self.token_sr, backbone)
        check_modules(modules, layers, width, source)
        return Run(self.policy, {layer: modules[layer] for layer in layers})

    def placed(self, backbone: Backbone) -> "Run":
        """The run with its modules on their layers' devices and in their dtype: the same modules, or copies."""
        modules = {
            layer: placed(module, backbone.device_of(layer), backbone.dtype)
            for layer, module in self.modules.items()
        }
        return Run(self.policy, modules or None)


def _warn_of_another_backbone(token_sr: str | os.PathLike[str], backbone: Backbone) -> None:
    """Warn where a caller's model is not the one that modules were trained on, by their own record and the model's name.

    A `Backbone` with a name comes from a command, which has said so before any weight was read; a model without any was
    made in memory.
    """
    name = getattr(backbone.model.config, "_name_or_path", "")
    if backbone.name or not name:
        return
    recorded = token_sr_config(token_sr)
    if not same_checkpoint(name, recorded.backbone, recorded.backbone_weights):
        warnings.warn(
            f"the modules in {token_sr} were trained on the backbone {recorded.backbone}, and this model is {name}: unless "
            "these are the same weights, what Blink does with them means little",
            stacklevel=4,
        )


def encodes(source: str, module: nn.Module | None) -> bool:
    """Whether an expansion needs the encoded region: the policy's source says so, or the module that declares `needs_crop`."""
    return source == "encode" or bool(getattr(module, "needs_crop", False))
