"""The objective of right answers: questions about the training images, and their answers' loss above a TokenSR.

Read from top to bottom; a file imports only from files above it.

    questions.py  where questions and answers come from
    lessons.py    prompts with answers about one image, tokenized
    loss.py       the answers' loss through the frozen layers above
"""
