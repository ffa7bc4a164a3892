"""A super-resolution module of your own in place of TokenSR.

    python examples/own_module.py

Any module [B, d, H, W] -> [B, d, H, W] will do; it gets the region's tokens, resized to the whole grid. Gradients reach it, so
that it can be trained on whatever loss the model has.
"""

import torch
from torch import Tensor, nn

import blink
from blink.scenes.questions import question_rows


class Sharpen(nn.Module):
    """Adds, to each channel, a learned share of what a blur takes away."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blur = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.strength = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, tokens_BdHW: Tensor) -> Tensor:
        """Sharper tokens."""
        return tokens_BdHW + self.strength * (tokens_BdHW - self.blur(tokens_BdHW))


def main(steps: int = 6) -> None:
    """Train a module for layer 8 on answers, in a few steps."""
    torch.manual_seed(0)
    model, processor = blink.load("tiny", dtype="float32")  # frozen: only the module learns
    module = Sharpen(model.config.text_config.hidden_size).to(model.device)
    handle = blink.attach(model, blink.Policy([8], tau_exp=0, tau_drop=0), {8: module})  # it always expands
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    rows = list(question_rows("token_sr", 2))
    for step in range(steps):
        turns = [
            [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]},
                {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]},
            ]
            for row in rows
        ]
        texts = [processor.apply_chat_template(turn) for turn in turns]
        images = [row["image"] for row in rows]
        inputs = processor(images=images, text=texts, return_tensors="pt", padding=True).to(model.device)
        # the prompt ends where the answer begins: labels say so, and the answer then changes no event
        colon = processor.tokenizer.convert_tokens_to_ids("ASSISTANT:")
        answered = (inputs["input_ids"] == colon).long().cumsum(dim=1) - (inputs["input_ids"] == colon).long()
        labels = inputs["input_ids"].masked_fill(answered == 0, -100)
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}")
    print(handle)
    print(f"strength: {module.strength.abs().mean().item():.3f} on average")


if __name__ == "__main__":
    main()
