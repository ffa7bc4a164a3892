"""Tests of the method; those against a literal Algorithm 1 are in oracle/.

Files of the room that are tested where they are used:

    run.py         test_attach.py, engine/test_engine.py
    algorithm.py   test_attach.py, oracle/test_oracle.py, oracle/test_oracle_random.py
    streams.py     test_attach.py, oracle/test_oracle.py, oracle/test_oracle_random.py
"""
