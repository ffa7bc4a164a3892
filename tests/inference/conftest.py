"""The method. Which test covers which module, where it is not the one of the same name:

algorithm.py   oracle/: prompt pass, decoding and random policies against a literal Algorithm 1
trunk.py       test_engine.py: answers against attach + generate, and counted work
branching.py   test_engine.py, as above; its scan is also tested in test_saliency.py
decoding.py    test_engine.py, as above
"""
