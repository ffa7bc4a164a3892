"""One answer, taken apart: what Blink did at every layer, as a table and as a page to look at."""
