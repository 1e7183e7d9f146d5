"""Which tensor deserves which type, under a budget of bits per weight or bytes.

Modules
-------
costs : the size and the error of a tensor in each type.
budget : the choice of types, given all costs.
name_patterns : patterns for the names of tensors that get a type.
model_types : the choice of types for a model file.
"""

from quantcore.mixed_precision.budget import TensorSensitivity, TypeSuggestion, rank_sensitivity, suggest_types
from quantcore.mixed_precision.costs import TypeCost, type_costs
from quantcore.mixed_precision.model_types import ModelSuggestion, suggest_model_types

__all__ = [
    "ModelSuggestion",
    "TensorSensitivity",
    "TypeCost",
    "TypeSuggestion",
    "rank_sensitivity",
    "suggest_model_types",
    "suggest_types",
    "type_costs",
]
