"""The order of documents for a model that answers from them.

Decoders attend to documents by the slot they stand in, many most to the first and last ones.
``measure_positions`` finds out how a model does, once; ``place`` then puts the best documents
where it looks (Attention Basin, arXiv 2508.05128). ``attention_sort`` asks the model itself, for
every query (Attention Sorting, arXiv 2310.01427).
"""

from ranklens.rerank.positions.measure import measure_positions as measure_positions
from ranklens.rerank.positions.place import place as place
from ranklens.rerank.positions.position_profile import PositionProfile as PositionProfile
from ranklens.rerank.positions.position_profile import (
    load_position_profile as load_position_profile,
)
from ranklens.rerank.positions.position_profile import (
    save_position_profile as save_position_profile,
)
from ranklens.rerank.positions.sorting import AttentionOrder as AttentionOrder
from ranklens.rerank.positions.sorting import attention_sort as attention_sort
