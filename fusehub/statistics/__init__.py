"""Statistics of an expert: what its linear layers' inputs look like, as a file that can be published.

`collect.collect` makes them where the data is; `sources.find_statistics` resolves those of a model, wherever they
lie; `format.Statistics` reads them. The data itself is not needed again.
"""
