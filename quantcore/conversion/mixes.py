"""The default mixes of llama-quantize as data: which tensors of a file of some kind get another type than its default.

A tensor belongs to a category by its name. The first row of `RULES` that fits file, category and conditions gives its
type; rows of `UPGRADES` may then raise that. Some rows count: "the first eighth of the layers" goes by the order of the
tensors. Source: `llama_tensor_get_type_impl` in llama.cpp's `src/llama-quant.cpp`, build b11739.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from quantcore._base.text import quote
from quantcore.conversion.file_types import FILE_TYPES, FileType
from quantcore.conversion.model_facts import ModelFacts
from quantcore.errors import InvalidValueError
from quantcore.ggml.types import GGMLType, GGUFQuantType
from quantcore.gguf.layout import layer_then_name


class Category(Enum):
    """What a tensor is for, as far as the mixes tell tensors apart."""

    OUTPUT = "output"
    TOKEN_EMBEDDING = "token embedding"
    ATTENTION_Q = "attention queries"
    ATTENTION_K = "attention keys"
    ATTENTION_V = "attention values"
    ATTENTION_OUTPUT = "attention output"
    FFN_UP = "feed-forward up"
    FFN_GATE = "feed-forward gate"
    FFN_DOWN = "feed-forward down"
    OTHER = "other"


OUTPUT = "output.weight"
TOKEN_EMBEDDINGS = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
# In this order, since a name may contain several.
_PARTS = (
    ("attn_qkv.weight", Category.ATTENTION_V),
    ("attn_kv_b.weight", Category.ATTENTION_V),
    ("attn_v.weight", Category.ATTENTION_V),
    ("attn_k.weight", Category.ATTENTION_K),
    ("attn_q.weight", Category.ATTENTION_Q),
    ("attn_output.weight", Category.ATTENTION_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)
_FEED_FORWARD = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)


@dataclass(frozen=True, slots=True)
class Place:
    """What the conditions of a rule look at.

    Attributes
    ----------
    model : ModelFacts
    has_imatrix : bool
    i, n : int
        Which tensor of its category it is, and of how many.
    columns, n_matrices : int
        The length of a row, and how many matrices are stacked in the tensor.
    default : GGMLType
        The default type of the file.
    category : Category
    """

    model: ModelFacts
    has_imatrix: bool
    i: int
    n: int
    columns: int
    n_matrices: int
    default: GGMLType
    category: Category


Condition = Callable[[Place], bool]


def _first(fraction: int) -> Condition:
    return lambda p: p.i < p.n // fraction


def _before(count: int) -> Condition:
    return lambda p: p.i < count


def _more_bits(p: Place) -> bool:
    """The first and the last eighth, and every third between them."""
    return p.i < p.n // 8 or p.i >= 7 * p.n // 8 or (p.i - p.n // 8) % 3 == 2


def _middle(p: Place) -> bool:
    return p.n // 8 <= p.i < 7 * p.n // 8


def _shared_values(p: Place) -> bool:
    return p.model.n_gqa >= 4


def _some_experts(p: Place) -> bool:
    return p.model.n_experts >= 4


def _eight_experts(p: Place) -> bool:
    return p.model.n_experts == 8


def _falcon(p: Place) -> bool:
    return p.model.architecture == "falcon"


def _is_70b(p: Place) -> bool:
    return p.model.is_70b


def _has_imatrix(p: Place) -> bool:
    return p.has_imatrix


def _no_imatrix(p: Place) -> bool:
    return not p.has_imatrix


def _part_blocks(p: Place) -> bool:
    return p.columns % p.default.block_size != 0


def _experts_of_a_layer(p: Place) -> bool:
    """Stacked matrices; in one architecture attention is stacked as well."""
    return p.n_matrices > 1 and (p.model.architecture != "bailingmoe3" or p.category in _FEED_FORWARD)


def _not(condition: Condition) -> Condition:
    return lambda p: not condition(p)


@dataclass(frozen=True, slots=True)
class Rule:
    """A row: in these files tensors of this category get this type if all conditions hold (None: the default type).

    An upgrade has the types that it raises in `of`; empty: every type.
    """

    files: frozenset[str]
    category: Category
    type: GGUFQuantType | None
    when: tuple[Condition, ...] = ()
    of: tuple[GGUFQuantType, ...] = ()


def _rules(files: str, category: Category, *rows: tuple[GGUFQuantType | None, *tuple[Condition, ...]]) -> list[Rule]:
    names = frozenset(files.split())
    return [Rule(names, category, type_, tuple(when)) for type_, *when in rows]


_ALL = " ".join(name for name, kind in FILE_TYPES.items() if kind.is_quantized)
_LOW = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
_MOE = "MXFP4_MOE"
_OTHERS = " ".join(name for name in _ALL.split() if name not in {*_LOW.split(), _MOE})
_T, _C = GGUFQuantType, Category

RULES: tuple[Rule, ...] = (
    # The output matrix, or the token embeddings that serve as one.
    *_rules(_MOE, _C.OUTPUT, (_T.Q8_0,)),
    *_rules(_ALL, _C.OUTPUT, (_T.Q8_0, _falcon), (_T.Q8_0, _part_blocks)),
    *_rules(f"{_LOW} IQ3_XXS", _C.OUTPUT, (_T.Q5_K,)),
    *_rules("Q8_0", _C.OUTPUT, (None,)),
    *_rules(_ALL, _C.OUTPUT, (_T.Q6_K,)),
    # Experts as MXFP4, everything else as Q8_0.
    *(rule for category in Category for rule in _rules(_MOE, category, (None, _experts_of_a_layer), (_T.Q8_0,))),
    *_rules("IQ1_S IQ1_M IQ2_XXS IQ2_XS", _C.TOKEN_EMBEDDING, (_T.Q2_K,)),
    *_rules("IQ2_S IQ2_M IQ3_XXS", _C.TOKEN_EMBEDDING, (_T.IQ3_S,)),
    *_rules("TQ1_0 TQ2_0 Q2_0", _C.TOKEN_EMBEDDING, (_T.Q4_K,)),
    # Files of less than three bits.
    *_rules(_LOW, _C.ATTENTION_V, (_T.Q4_K, _shared_values), (_T.Q4_K, _some_experts)),
    *_rules("IQ2_S IQ2_M", _C.ATTENTION_V, (_T.IQ3_S,)),
    *_rules(_LOW, _C.ATTENTION_V, (_T.Q2_K,)),
    *_rules(_LOW, _C.ATTENTION_K, (_T.Q4_K, _eight_experts)),
    *_rules("IQ2_S IQ2_M", _C.FFN_DOWN, (_T.IQ3_S, _first(8))),
    *_rules("IQ1_S IQ1_M IQ2_XXS IQ2_XS", _C.FFN_DOWN, (_T.Q2_K, _first(8))),
    *_rules(_LOW, _C.ATTENTION_OUTPUT, (_T.Q5_K, _eight_experts)),
    *_rules("IQ1_S IQ1_M", _C.ATTENTION_OUTPUT, (_T.IQ2_XXS,)),
    *_rules("IQ2_S IQ2_M", _C.ATTENTION_OUTPUT, (_T.IQ3_S,)),
    # Attention values, alone or together with queries and keys.
    *_rules("Q2_K", _C.ATTENTION_V, (_T.Q4_K, _shared_values), (_T.Q3_K,)),
    *_rules("Q2_K_S", _C.ATTENTION_V, (_T.Q4_K, _shared_values)),
    *_rules("IQ3_XXS", _C.ATTENTION_V, (_T.Q4_K, _shared_values), (_T.IQ3_S, _no_imatrix)),
    *_rules("IQ3_XS IQ3_S", _C.ATTENTION_V, (_T.Q4_K, _shared_values)),
    *_rules("IQ3_M", _C.ATTENTION_V, (_T.Q4_K,)),
    *_rules("Q3_K_M", _C.ATTENTION_V, (_T.Q5_K, _before(2)), (_T.Q4_K,)),
    *_rules("Q3_K_L", _C.ATTENTION_V, (_T.Q5_K,)),
    *_rules("IQ4_NL IQ4_XS", _C.ATTENTION_V, (_T.Q5_K, _shared_values)),
    *_rules("Q4_K_M Q5_K_M", _C.ATTENTION_V, (_T.Q6_K, _more_bits)),
    *_rules("Q4_K_S", _C.ATTENTION_V, (_T.Q5_K, _before(4))),
    # Attention keys and queries.
    *_rules(_OTHERS, _C.ATTENTION_K, (_T.Q8_0, _eight_experts)),
    *(rule for category in (_C.ATTENTION_K, _C.ATTENTION_Q) for rule in (
        *_rules("IQ3_XS", category, (_T.IQ3_XXS,)),
        *_rules("IQ3_XXS", category, (_T.IQ2_S,)),
    )),
    # Feed-forward.
    *_rules("Q2_K", _C.FFN_DOWN, (_T.Q3_K,)),
    *_rules("Q2_K_S", _C.FFN_DOWN, (_T.Q4_K, _first(8))),
    *_rules("IQ3_XXS", _C.FFN_DOWN, (_T.Q4_K, _no_imatrix, _first(8)), (_T.Q3_K, _no_imatrix)),
    *_rules("Q3_K_M", _C.FFN_DOWN, (_T.Q5_K, _first(16)), (_T.Q4_K, _not(_falcon)), (_T.Q4_K, _more_bits)),
    *_rules("IQ3_M", _C.FFN_DOWN, (_T.Q4_K, _first(8)), (_T.Q4_K, _eight_experts, _more_bits)),
    *_rules("Q3_K_L", _C.FFN_DOWN, (_T.Q4_K, _falcon), (_T.Q5_K,)),
    *_rules("Q4_K_M", _C.FFN_DOWN, (_T.Q6_K, _falcon, _first(16)), (_T.Q5_K, _falcon, _more_bits), (None, _falcon),
            (_T.Q6_K, _more_bits)),
    *_rules("IQ4_NL IQ4_XS", _C.FFN_DOWN, (_T.Q5_K, _no_imatrix, _first(8))),
    *_rules("Q5_K_M", _C.FFN_DOWN, (_T.Q6_K, _more_bits)),
    *_rules("Q4_K_S", _C.FFN_DOWN, (_T.Q5_K, _not(_falcon), _first(8))),
    *_rules("Q4_0", _C.FFN_DOWN, (_T.Q4_1, _has_imatrix, _first(8))),
    *_rules("Q5_0", _C.FFN_DOWN, (_T.Q5_1, _has_imatrix, _first(8))),
    *_rules("IQ3_XS", _C.FFN_GATE, (_T.IQ3_XXS, _middle)),
    *_rules("IQ3_XS", _C.FFN_UP, (_T.IQ3_XXS, _middle)),
    # Attention output.
    *_rules("Q3_K_L", _C.ATTENTION_OUTPUT, (_T.Q4_K, _falcon)),
    *_rules(_OTHERS, _C.ATTENTION_OUTPUT, (None, _falcon)),
    *_rules("Q2_K IQ3_XS IQ3_XXS Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ3_S IQ3_M IQ4_XS", _C.ATTENTION_OUTPUT,
            (_T.Q5_K, _eight_experts)),
    *_rules(_OTHERS, _C.ATTENTION_OUTPUT, (None, _eight_experts)),
    *_rules("Q2_K", _C.ATTENTION_OUTPUT, (_T.Q3_K,)),
    *_rules("IQ3_XXS", _C.ATTENTION_OUTPUT, (_T.IQ3_S,)),
    *_rules("Q3_K_M IQ3_M", _C.ATTENTION_OUTPUT, (_T.Q4_K,)),
    *_rules("Q3_K_L", _C.ATTENTION_OUTPUT, (_T.Q5_K,)),
)  # fmt: skip
UPGRADES: tuple[Rule, ...] = (
    Rule(frozenset(_OTHERS.split()), _C.ATTENTION_V, _T.Q5_K, (_is_70b,), (_T.Q3_K, _T.Q4_K)),
    Rule(frozenset(_OTHERS.split()), _C.ATTENTION_V, _T.Q8_0, (_eight_experts,)),
)


class Mix:
    """The types of a model's tensors in one file, asked for in the order of the tensors: it counts them.

    Parameters
    ----------
    file_type : FileType
    model : ModelFacts
    names : list of str
        All tensors, whatever becomes of them.
    has_imatrix : bool
    """

    def __init__(self, file_type: FileType, model: ModelFacts, names: list[str], *, has_imatrix: bool) -> None:
        self._file_type = file_type
        self._model = model
        self._has_imatrix = has_imatrix
        self._is_tied = OUTPUT not in names
        self._counts = dict.fromkeys(_FEED_FORWARD, model.n_layers)
        self._counts[Category.ATTENTION_V] = sum(categorize(name) is Category.ATTENTION_V for name in names)
        self._seen = dict.fromkeys(self._counts, 0)
        self._rules = {c: _rules_for(RULES, file_type, c) for c in Category}
        self._upgrades = {c: _rules_for(UPGRADES, file_type, c) for c in Category}

    def is_output(self, name: str) -> bool:
        """Whether a tensor is the output matrix, or the token embeddings that serve as one."""
        return name == OUTPUT or (self._is_tied and name in TOKEN_EMBEDDINGS)

    def type_of(self, name: str, shape: tuple[int, ...]) -> GGMLType:
        """The type of the next tensor.

        Raises
        ------
        InvalidValueError
            The mix goes by the layer, and the name has none of the model's.
        """
        category = Category.OUTPUT if self.is_output(name) else categorize(name)
        place = Place(
            self._model,
            self._has_imatrix,
            self._index(name, category),
            self._counts.get(category, 0),
            shape[-1],
            shape[-3] if len(shape) > 2 else 1,
            self._file_type.default,
            category,
        )
        if category in self._seen:
            self._seen[category] += 1
        chosen = self._file_type.default
        for rule in self._rules[category]:
            if all(condition(place) for condition in rule.when):
                chosen = chosen if rule.type is None else rule.type.layout
                break
        for rule in self._upgrades[category]:
            if all(condition(place) for condition in rule.when) and (not rule.of or chosen.id in rule.of):
                chosen = chosen if rule.type is None else rule.type.layout
        return chosen

    def _index(self, name: str, category: Category) -> int:
        # The experts of a layer may be tensors of their own, so that their number says nothing about the layer.
        is_counted_by_layer = category in _FEED_FORWARD and self._file_type.name in _OTHERS.split()
        if is_counted_by_layer and self._model.n_experts > 1:
            layer, _ = layer_then_name(name)
            if not 0 <= layer < self._model.n_layers:
                raise InvalidValueError(
                    f"tensor {quote(name)}: the mix {self._file_type.name} needs the number of its layer, blk.0 to "
                    f"blk.{self._model.n_layers - 1}, in a model with experts; --pure (pure=True) does without"
                )
            return layer
        return self._seen.get(category, 0)


def _rules_for(rules: tuple[Rule, ...], file_type: FileType, category: Category) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.category is category and file_type.name in rule.files)


def categorize(name: str) -> Category:
    """The category of a tensor, by its name."""
    if name == OUTPUT:
        return Category.OUTPUT
    if name in TOKEN_EMBEDDINGS:
        return Category.TOKEN_EMBEDDING
    return next((category for part, category in _PARTS if part in name), Category.OTHER)
