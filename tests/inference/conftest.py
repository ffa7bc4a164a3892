"""Tests of the method; those against a literal Algorithm 1 are in oracle/.

Files of the room that are tested where they are used:

    algorithm.py   test_attach.py, oracle/test_oracle.py, oracle/test_oracle_random.py
    streams.py     test_attach.py, oracle/test_oracle.py, oracle/test_oracle_random.py
    trunk.py       test_engine.py
    branching.py   test_engine.py, test_saliency.py
    decoding.py    test_engine.py
"""
