"""The default mixes choose the types that llama.cpp b11739 chooses, for models as people have them, without weights."""

import pytest

from quantcore.conversion.file_types import COPY, FILE_TYPES, as_file_type, guess_file_type, name_of_pure
from quantcore.conversion.mixes import RULES, UPGRADES
from quantcore.conversion.model_facts import read_facts
from quantcore.conversion.rules import TypeRules
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.ggml.types import GGUFQuantType
from tests.support.make_golden_models import TYPES_WITHOUT_FAILURE, read_golden
from tests.support.marks import slow_but_first
from tests.support.quantize_cases import TYPES
from tests.support.type_cases import CASES, TypeCase, summarize

GOLDEN = read_golden("types")["types"]


def facts_of(case: TypeCase):
    values = {
        "general.architecture": case.architecture,
        f"{case.architecture}.block_count": case.n_layers,
        f"{case.architecture}.attention.head_count": case.n_heads,
        f"{case.architecture}.attention.head_count_kv": case.n_kv_heads,
        f"{case.architecture}.expert_count": case.n_experts,
    }
    return read_facts(values.get)


@pytest.mark.parametrize("name", slow_but_first(list(CASES), 6))
def test_types_are_those_of_llama_cpp(name):
    case = CASES[name]
    names = list(case.tensors)
    assert GOLDEN[name].keys() == set(TYPES_WITHOUT_FAILURE)
    for file_type, expected in GOLDEN[name].items():
        rules = TypeRules(FILE_TYPES[file_type])
        targets = rules.targets(list(case.tensors.items()), facts_of(case), has_imatrix=False)
        types = ["F32" if chosen is None else chosen.name for chosen, _ in targets]
        assert summarize(names, types) == expected, file_type


def test_mixes_by_layer_refuse_layers_that_a_model_with_experts_does_not_have():
    values = {"general.architecture": "llama", "llama.block_count": 2, "llama.expert_count": 4}
    for name in ("blk.2.ffn_down_exps.weight", "enc.blk.0.ffn_up.weight", "blk.-1.ffn_gate.weight"):
        tensors = [("blk.0.attn_q.weight", (4, 256)), (name, (4, 256))]
        with pytest.raises(InvalidValueError, match=rf"^tensor '{name}': the mix Q4_K_M needs the number of its layer"):
            TypeRules(FILE_TYPES["Q4_K_M"]).targets(tensors, read_facts(values.get), has_imatrix=False)
        for rules in (TypeRules(FILE_TYPES["Q4_K_M"], is_pure=True), TypeRules(FILE_TYPES["IQ2_S"])):
            assert len(rules.targets(tensors, read_facts(values.get), has_imatrix=False)) == 2


def test_every_rule_is_of_files_that_exist():
    assert all(rule.files <= FILE_TYPES.keys() for rule in (*RULES, *UPGRADES))


@pytest.mark.parametrize("name", [*FILE_TYPES, "Q3_K", "Q4_K", "Q5_K"])
def test_names_in_any_case(name):
    aliases = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
    for spelled in (name, name.lower(), name.title()):
        assert as_file_type(spelled).name == aliases.get(name, name)
    assert set(TYPES) <= FILE_TYPES.keys() and COPY not in FILE_TYPES


@pytest.mark.parametrize("qtype", GGUFQuantType, ids=lambda t: t.name)
def test_types_and_ids_stand_for_the_file_of_their_name(qtype):
    assert as_file_type(qtype) == as_file_type(int(qtype)) == as_file_type(qtype.name)
    assert as_file_type(name_of_pure(qtype.layout)).default == qtype.layout


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(
        InvalidValueError, match=r"^qtype: unknown type 'Q4_K_XL'; known: F32, F16, .*, COPY; did you mean Q4_K_[SM]\?$"
    ):
        as_file_type("Q4_K_XL")
    with pytest.raises(InvalidTypeError, match=r"^qtype: expected a GGUFQuantType, its name or its id, got 1\.5$"):
        as_file_type(1.5)  # type: ignore[arg-type]


def test_file_type_of_a_copy_is_guessed_from_the_most_frequent_type():
    f32, q4 = GGUFQuantType.F32.layout, GGUFQuantType.Q4_K.layout
    assert guess_file_type([f32, q4, q4]) == 1024 + 15
    assert guess_file_type([q4, f32, f32, q4]) == 1024
    assert guess_file_type([]) == 1024
