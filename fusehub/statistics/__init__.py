"""Statistics of an expert: what its linear layers' inputs look like, as a file that can be published.

`collect` makes them where the data is; `find_statistics` resolves the ones of a model, wherever they lie;
`Statistics` reads them. The data itself is not needed again.
"""

from fusehub.statistics.collect import collect
from fusehub.statistics.format import Statistics
from fusehub.statistics.sources import find_statistics

__all__ = ["Statistics", "collect", "find_statistics"]
