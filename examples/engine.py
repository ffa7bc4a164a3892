"""Many questions about one picture under many policies: each piece of work is done once.

    python examples/engine.py

Each answer is the one that `blink.attach` and greedy `generate` give for that prompt and policy.
"""

import blink
from blink.scenes.draw import scene

QUESTIONS = (
    "What shape is the purple object?",
    "Is there a red circle in the image?",
    "What color is the square?",
)


def main() -> None:
    """Answer three questions under three runs."""
    model, processor = blink.load("tiny")
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        for question in QUESTIONS
    ]
    policy = blink.Policy(range(8, 11), tau_exp=0.5, tau_drop=0.4)
    runs = {
        "as it is": blink.Run(),
        "interpolated": blink.Run(policy),
        "TokenSR": blink.Run(policy, token_sr="tiny"),
    }
    engine = blink.Engine(model, processor)
    answers = engine.answer(scene("test", 1).draw(), prompts, list(runs.values()), max_new_tokens=12)
    for number, question in enumerate(QUESTIONS):
        print(question)
        for name, of_run in zip(runs, answers, strict=True):
            expanded = [event.layer for event in of_run[number].events if event.action == "expand"]
            print(f"  {name + ':':13} {of_run[number].text:40} expanded at {expanded or 'no layer'}")


if __name__ == "__main__":
    main()
