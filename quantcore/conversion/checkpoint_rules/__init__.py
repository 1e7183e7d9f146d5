"""Which tensors of a checkpoint become 4-bit weights: those of which transformers makes a 4-bit linear layer.

With transformers and torch installed, the modules of the model decide; without them, a table of architectures; for a
model that neither knows, the names of the tensors.

Modules
-------
decisions : `decide`, and the records of what was decided.
module_tree, module_tree_client : the model's modules on the meta device, in a process of its own.
architectures : the table.
names : rules for names that models share.
skip_modules : what is left out, as `llm_int8_skip_modules` says it.
"""

from quantcore.conversion.checkpoint_rules.decisions import Decision, Decisions, Layout, decide, transposed_weights

__all__ = ["Decision", "Decisions", "Layout", "decide", "transposed_weights"]
