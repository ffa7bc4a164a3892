"""MM-Vet's own judge: a chat model that completes a table of graded answers.

Wording and procedure are those of `mm-vet_evaluator.py` (yuweihao/MM-Vet): the text is part of the protocol and
must not be changed by a character. The published scores are by gpt-4-0613.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from rich.progress import track

from blink.bench.judges.base import Asked, Grade
from blink.bench.judges.chat import ChatEndpoint

OPENAI = "https://api.openai.com/v1"

_EQUATION = "What is x in the equation? | -1 <AND> -5"
_MEME = (
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the countries Iceland and "
    "Greenland are misleading. Despite its name, Iceland is known for its beautiful green landscapes, while Greenland "
    "is mostly covered in ice and snow. The meme is saying that the person has trust issues because the names of these "
    "countries do not accurately represent their landscapes."
)
PROMPT = f"""\
Compare the ground truth and prediction from AI models, to give a correctness score for the prediction. \
<AND> in the ground truth means it is totally right only when all elements in the ground truth are present in the \
prediction, and <OR> means it is totally right when any one element in the ground truth is present in the prediction. \
The correctness score is 0.0 (totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). \
Just complete the last space of the correctness score.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
{_EQUATION} | x = 3 | 0.0
{_EQUATION} | x = -1 | 0.5
{_EQUATION} | x = -5 | 0.5
{_EQUATION} | x = -5 or 5 | 0.5
{_EQUATION} | x = -1 or x = -5 | 1.0
{_MEME} | The meme talks about Iceland and Greenland. It's pointing out that despite their names, Iceland is not very \
icy and Greenland isn't very green. | 0.4
{_MEME} | The meme is using humor to point out the misleading nature of Iceland's and Greenland's names. Iceland, \
despite its name, has lush green landscapes while Greenland is mostly covered in ice and snow. The text 'This is why I \
have trust issues' is a playful way to suggest that these contradictions can lead to distrust or confusion. The humor \
in this meme is derived from the unexpected contrast between the names of the countries and their actual physical \
characteristics. | 1.0
"""
INSIST = "\nPredict the correctness of the answer (digit): "
MAX_TOKENS = 3
TEMPERATURES = (0.0, 0.0, 0.5, 1.0, 1.5)
"""Temperatures of the first request and of the four further ones, which end in `INSIST`; as in the evaluator."""


@dataclass(frozen=True)
class EndpointJudge:
    """The official prompt and procedure, put to a chat model.

    Args:
        endpoint: the model.
        parallel: requests under way at once.
        cache: folder of the replies, shared by all runs that name it; None keeps them with the run.
    """

    endpoint: ChatEndpoint
    parallel: int = 4
    cache: Path | None = None

    @property
    def name(self) -> str:
        """The model, and the host unless it is OpenAI's."""
        if self.endpoint.base_url.rstrip("/") == OPENAI:
            return self.endpoint.model
        return f"{self.endpoint.model}@{urlsplit(self.endpoint.base_url).netloc.rpartition('@')[2]}"

    @property
    def caution(self) -> str | None:
        """None for the model of the published scores."""
        if self.endpoint.model == "gpt-4-0613":
            return None
        return f"graded by {self.name}; published scores are by gpt-4-0613, and do not compare with another judge's"

    def check(self, ids: Sequence[str]) -> None:
        """Nothing is known before the first request."""

    def grade(self, answers: Sequence[Asked], folder: Path) -> list[Grade]:
        """Ask for each distinct answer once; replies are kept, so a second call asks only what the first did not.

        Raises:
            EndpointError: the endpoint refuses, or cannot be reached.
        """
        cache = folder / "judge" if self.cache is None else self.cache
        texts = list(dict.fromkeys(request_text(asked) for asked in answers))
        stop = Event()
        with ThreadPoolExecutor(self.parallel) as pool:
            waiting = [pool.submit(self._grade, text, cache, stop) for text in texts]
            try:
                grades = {
                    text: future.result()
                    for text, future in track(
                        list(zip(texts, waiting, strict=True)), f"judging by {self.name}", transient=True
                    )
                }
            finally:
                stop.set()
                for future in waiting:
                    future.cancel()
        return [grades[request_text(asked)] for asked in answers]

    def _grade(self, text: str, cache: Path, stop: Event) -> Grade:
        """Send requests until a reply begins with a number in [0, 1]; the score is 0 if none of five does."""
        for number, temperature in enumerate(TEMPERATURES):
            reply = self.endpoint.ask(
                text if number == 0 else text + INSIST,
                temperature=temperature,
                max_tokens=MAX_TOKENS,
                cache=cache,
                stop=stop,
            )
            score = read_score(reply.content)
            if score is not None:
                return Grade(score, reply.content, reply.model)
        return Grade(0.0, reply.content, reply.model)


def request_text(asked: Asked) -> str:
    """Return the user message for one answer: the table, and a last line to be completed."""
    truth = asked.truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return PROMPT + "\n" + " | ".join([asked.question, truth, asked.response, ""])


def read_score(content: str) -> float | None:
    """Return the number before the first space if it is one in [0, 1]."""
    try:
        score = float(content.split(" ")[0])
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None
