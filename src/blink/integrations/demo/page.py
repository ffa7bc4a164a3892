"""The page: its parts, and what happens when one of them is used.

Gradio hands values on as browsers and programs send them; `asking.py` checks them. It is imported where it is used: it is an
extra, and takes seconds.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from blink.inference.policy import POSITIONS, SALIENCIES
from blink.integrations.demo.answering import BLINK, ENCODE, INTERP, VANILLA, Demonstrator
from blink.integrations.demo.asking import Controls, Known, read
from blink.integrations.demo.cards import cards, mistake, scan
from blink.integrations.demo.plan import Shown
from blink.integrations.demo.scenes import HARDEST, DrawnScene, draw
from blink.runs.values import UserError

if TYPE_CHECKING:
    import gradio as gr

FIRST_SCENE, FIRST_QUESTION = 49, 5
"""Number of the scene that the page opens with, and of a question about it to which the tiny backbone's answers differ."""

_WAYS = {
    VANILLA: "by the backbone as it is",
    INTERP: "by Blink with the hottest region interpolated",
    BLINK: "by Blink with TokenSR",
    ENCODE: "by Blink with the region encoded anew",
}


def make_page(shown: Shown, demonstrator: Demonstrator) -> "gr.Blocks":
    """The page, its controls set to the policy that is served."""
    import gradio as gr

    begin = Controls.of(shown.policy)
    # uploads are deleted within the hour; no telemetry
    with gr.Blocks(analytics_enabled=False, title=f"Blink: {shown.name}", delete_cache=(600, 3600)) as page:
        gr.HTML(_heading(shown.name, [side.name for side in demonstrator.sides(shown.policy)]), padding=False)
        known, asked = gr.State(Known()), gr.State(False)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                picture = gr.Image(
                    label="picture",
                    format="png",
                    sources=["upload", "clipboard"],
                    height=260,
                    elem_id="picture",
                    buttons=[],
                )
                with gr.Row():
                    difficulty = gr.Dropdown(
                        list(HARDEST), value="ordinary", label="scenes", container=False, min_width=110
                    )
                    drawing = gr.Button("Draw a scene", elem_id="draw", min_width=130)
            with gr.Column(scale=2, min_width=300):
                question = gr.Textbox(
                    label="question",
                    lines=2,
                    placeholder="about the picture",
                    elem_id="question",
                    max_length=shown.limits.characters,
                )
                examples = gr.Dataset(
                    components=[gr.Textbox(visible=False)],
                    samples=[],
                    label="questions about the scene",
                    elem_id="examples",
                )
                asking = gr.Button("Ask", variant="primary", elem_id="ask")
                wrong = gr.HTML(elem_id="wrong", padding=False)
        answers = gr.HTML(elem_id="answers", padding=False)
        with gr.Accordion("Where to scan, and when to act", open=True), gr.Row():
            layers = gr.Textbox(
                begin.layers,
                label="layers",
                info=f"of 0-{shown.layers - 1}: 10, 8-10 or 3,9; Enter runs",
                elem_id="layers",
                min_width=130,
            )
            tau_exp = gr.Slider(0, 1, begin.tau_exp, step=0.01, label="expand above", elem_id="tau_exp")
            tau_drop = gr.Slider(0, 1, begin.tau_drop, step=0.01, label="drop below", elem_id="tau_drop")
            patches = gr.Dropdown(
                sorted({2, 3, 4, shown.policy.patches}),
                value=begin.patches,
                label="p of p × p regions",
                min_width=110,
            )
            saliency = gr.Dropdown(list(SALIENCIES), value=begin.saliency, label="saliency", min_width=110)
            positions = gr.Dropdown(list(POSITIONS), value=begin.positions, label="positions", min_width=110)
        looked = gr.HTML(elem_id="scan", padding=False)

        controls = [layers, tau_exp, tau_drop, patches, saliency, positions]

        def drawn(hard: Any) -> list[Any]:
            """Draw a scene: the picture, its questions, the first of them."""
            try:
                return _as_values(draw(None, hard))
            except UserError as error:
                return [*(gr.skip() for _ in range(4)), mistake(str(error))]

        def opened(request: gr.Request) -> list[Any]:
            """Open the page as its address says: ?scene=7&difficulty=hard&question=...; with a question, ask it."""
            wanted = dict(request.query_params)
            try:
                scene = draw(_whole(wanted.get("scene", FIRST_SCENE)), wanted.get("difficulty", "ordinary"))
                values = _as_values(scene)
            except UserError as error:
                values = [*(gr.skip() for _ in range(4)), mistake(str(error))]
            else:
                if "scene" not in wanted:
                    values[1] = scene.questions[FIRST_QUESTION].text
            if "question" in wanted:
                values[1] = wanted["question"]
            return [*values, "question" in wanted]

        def answered(*values: Any) -> Iterator[list[Any]]:
            """Answer in every way; the parts that do not change are left alone."""
            sent, text, *held, drawn_last = values
            begun = False
            try:
                checked = read(sent, text, Controls(*held), drawn_last, shown)
                for progress in demonstrator.answer(checked):
                    done = gr.skip() if progress.explained is None else scan(progress.explained)
                    yield [mistake(""), cards(progress), done]
                    begun = True
            except UserError as error:  # what was answered before stays, half an answer does not
                rest = ["", ""] if begun else [gr.skip(), gr.skip()]
                yield [mistake(str(error)), *rest]

        def again(*values: Any) -> Iterator[list[Any]]:
            """The same, once somebody has asked: a control alone asks nothing."""
            *others, was_asked = values
            if was_asked:
                yield from answered(*others)
            else:
                yield [gr.skip(), gr.skip(), gr.skip()]

        scene_parts = [picture, question, examples, known, wrong]
        inputs = [picture, question, *controls, known]
        shared: dict[str, Any] = {
            "outputs": [wrong, answers, looked],
            "preprocess": False,
            "show_progress": "hidden",
            "concurrency_limit": None,
        }
        run = {"fn": answered, "inputs": inputs, **shared}
        rerun = {"fn": again, "inputs": [*inputs, asked], **shared, "api_visibility": "private"}
        quick: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        page.load(opened, None, [*scene_parts, asked], api_visibility="private", show_progress="hidden").then(
            **rerun
        )
        drawing.click(drawn, [difficulty], scene_parts, preprocess=False, api_name="draw")
        examples.click(lambda chosen: (chosen[0], True), [examples], [question, asked], **quick).then(
            **run, api_visibility="private"
        )
        gr.on([asking.click, question.submit], lambda: True, None, [asked], **quick).then(
            **run, api_name="ask"
        )
        changed = [layers.submit, tau_exp.release, tau_drop.release]
        changed += [choice.input for choice in (patches, saliency, positions)]
        gr.on(changed, **rerun, trigger_mode="always_last")
    _take_uploads_alone(page)
    return page


def _heading(name: str, sides: Sequence[str]) -> str:
    """What the page is about."""
    *ways, last = [_WAYS[side] for side in sides]
    told = f"One question, answered {', '.join(ways)} and {last}. Then, layer by layer, where the prompt's last token looks, and what is expanded or dropped."
    return f'<div class="blink-about"><h1>Blink on {escape(name)}</h1><p>{told}</p></div>'


def _as_values(scene: DrawnScene) -> list[Any]:
    """Picture, question, examples and what is known of a scene, and no mistake."""
    import gradio as gr

    texts = [question.text for question in scene.questions]
    examples = gr.Dataset(
        samples=[[text] for text in texts],
        sample_labels=[text.partition("\n")[0] for text in texts],
        label=f"questions about scene {scene.number} ({scene.difficulty})",
    )
    return [scene.picture, texts[0], examples, Known.of(scene), mistake("")]


def _whole(value: Any) -> Any:
    """A number of the page's address; anything else stays as it is, to be refused."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 12 else value


def _take_uploads_alone(page: "gr.Blocks") -> None:
    """Refuse files that nobody uploaded, in whatever part of the page a program names them.

    Gradio fetches the address that stands in place of a file, and reads any file of this machine where a page is mounted in
    an application and not launched by itself.
    """
    import gradio as gr

    page.has_launched = True  # by which its own check of paths goes

    def guarded(stock: Any) -> Any:
        async def uploaded(path: Any) -> Any:
            if isinstance(path, str) and "://" in path:
                raise gr.Error(
                    "pictures at other addresses are not fetched; upload one", print_exception=False
                )
            return await stock(path)

        return uploaded

    for part in page.blocks.values():
        part.async_move_resource_to_block_cache = guarded(part.async_move_resource_to_block_cache)
