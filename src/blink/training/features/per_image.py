"""Datasets over a collection of images: the views of each, or its features from disk."""

from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from blink.model.views import ViewMaker, Views, join_views
from blink.training.features.states import Features, stack_features
from blink.training.features.store import FeatureStore
from blink.training.images import Images


class ImageViews(Dataset[Views]):
    """The views of each image of a collection."""

    join = staticmethod(join_views)
    """Makes a batch of some."""

    def __init__(self, images: Images, views: ViewMaker) -> None:
        self.images = images
        self.views = views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Views:
        return self.views(self.images.read(index))


class StoredFeatures(NamedTuple):
    """Where features are read from instead of being computed.

    Attributes:
        store: the folder.
        layers: that are read.
        dtype: that they are converted to.
        views: tells the grids of pictures by their size, where these differ.
    """

    store: FeatureStore
    layers: tuple[int, ...]
    dtype: torch.dtype
    views: ViewMaker

    def rows(self, images: Images) -> list[int]:
        """The store's rows of all images of a collection."""
        numbers = range(len(images))
        grids = None
        if self.store.shape[1] is None:
            grids = [self.views.grid(images.size(index)) for index in numbers]
        return self.store.rows([images.identity(index) for index in numbers], grids)


class ImageFeatures(Dataset[Features]):
    """Stored features of each image of a collection; the store must hold a row before it is read."""

    join = staticmethod(stack_features)
    """Makes a batch of some."""

    def __init__(self, images: Images, stored: StoredFeatures) -> None:
        self.stored = stored
        self.rows = stored.rows(images)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Features:
        return Features(self.stored.store.read(self.rows[index], self.stored.layers, self.stored.dtype))
