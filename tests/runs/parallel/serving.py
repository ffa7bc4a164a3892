"""What the other processes of `test_team.py` do: double numbers, fail, or wait until they are asked to leave it."""

import os
import sys
import time

from blink.runs.parallel.team import Work, serve
from blink.runs.values import UserError


def do(work: Work) -> None:
    number = work.message["number"]
    if number == -1:
        raise UserError("-1 cannot be doubled")
    if number == -2:
        raise ArithmeticError("too small")
    if number == -3:
        work.send({"pid": os.getpid()})
        while not work.taken_back():
            time.sleep(0.01)
    for each in range(3):
        work.send({"doubled": 2 * number, "each": each, "rank": int(os.environ["RANK"])})


if __name__ == "__main__":
    serve(do, parent=int(sys.argv[1]))
