"""Pictures of what happened. Each figure file measures, tabulates and draws one figure; none of them reads a config."""

from blink.figures.events import ACTION_STYLE, event_strip, example

__all__ = ["ACTION_STYLE", "event_strip", "example"]
