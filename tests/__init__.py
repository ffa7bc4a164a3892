"""Tests mirror src/blink; shared builders are in tests.models, the reference algorithm in tests.inference.oracle.literal."""
