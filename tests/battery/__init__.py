"""The paper's comparison, run again on real text: `make battery` (hours; it goes on where it was).

    python -m tests.battery --folder battery                     # everything
    python -m tests.battery --folder battery --family entities   # one family of experts

Two families of experts of one pretrained encoder: sentiment (four kinds of text) and named entities (four genres).
In every choice three domains have experts that are merged, and the fourth is out of domain. `families` says what
they are, `experts` trains, `run` merges and scores, `tasks` merges experts of both families, `report` writes
`docs/results.md` from the recorded results, which are kept in `docs/results/` so that nothing is computed twice, and
`measured` the table that `fusehub.recommend` goes by.
"""
