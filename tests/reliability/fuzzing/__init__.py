"""Files of strangers that are broken: sound repos, what is done to them, what is asked of them, and the verdict.

    world = World(folder)                               # sound repos of every kind, made once
    verdict = run(world, Random(7), folder / "case")    # one case: a copy, some changes, every question

`tests.reliability.fuzz` takes as many cases as it is told; tests/unit/test_fuzz.py takes 1,000 in every run.
"""
