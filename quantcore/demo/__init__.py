"""A small trained model in the package, and its accuracy after quantization to each format. Its data lie here.

Modules
-------
digits : the network, its data, `evaluate_formats`.
"""

from quantcore.demo.digits import FormatEvaluation, digits_test_set, digits_weights, evaluate_formats, top1_accuracy

__all__ = ["FormatEvaluation", "digits_test_set", "digits_weights", "evaluate_formats", "top1_accuracy"]
