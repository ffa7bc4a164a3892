"""Tests of the families; those against a literal Algorithm 1 are in tests/inference/oracle/.

Files of the room that are tested together, each with every family:

    base.py         test_families.py
    llava.py        test_families.py
    llava_next.py   test_families.py
    internvl.py     test_families.py
    smolvlm.py      test_families.py
    qwen_vl.py      test_families.py
"""
