"""An explanation on the terminal."""

from rich.console import Console
from rich.table import Table

from blink.analysis.explain.answers import Answered, Explanation
from blink.analysis.explain.page import flops_in_words
from blink.inference.boxes import regions_in_words


def print_explanation(explained: Explanation, console: Console) -> None:
    """Print both answers and what they cost, and the events of each."""
    console.print(explained.sample.question.strip(), soft_wrap=True)
    for answer in explained.answers:
        console.print(
            f"{answer.side.name}: {answer.text or '(nothing)'}  ({len(answer.ids)} tokens, {flops_in_words(answer.flops)})",
            soft_wrap=True,
        )
    for answer in explained.answers:
        if answer.events:
            console.print(event_table(explained, answer))


def event_table(explained: Explanation, answer: Answered) -> Table:
    """A row per scanned layer.

    The probabilities are those of the answers' first tokens if the final norm and head are put behind the layer.
    """
    policy = answer.side.run.policy
    assert policy is not None, "only a policy scans"
    above, below = policy.thresholds
    table = Table(
        title=f"{answer.side.name}: expand above {above:.2f}, drop below {below:.2f}",
        caption=f"{regions_in_words(policy.patches)}\nratio: share of the hottest region in the attention on all; "
        "P: probability of an answer's first word, were the layer the last",
        caption_justify="left",
    )
    for name in ("layer", "ratio", "region"):
        table.add_column(name, justify="right")
    table.add_column("action")
    table.add_column("tokens in layer", justify="right")
    for word in answer.layers[0].words:
        table.add_column(f"P({explained.words[word.token]!r})", justify="right")
    for one in answer.layers:
        if one.event is not None:
            table.add_row(
                str(one.layer),
                f"{one.event.ratio:.3f}",
                str(one.event.region),
                one.event.action,
                str(one.columns),
                *(f"{word.probability:.3f}" for word in one.words),
            )
    return table
