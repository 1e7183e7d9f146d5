"""A page of HTML that shows how good a quantized model is: `write_report`.

`samples` reads a bounded part of both models; `distributions` and `frontier` compute from it what `figures` draws;
`layer_map` makes the map of the layers; `page` assembles the HTML. Only `figures` needs matplotlib, which is imported
when it draws.
"""

from quantcore.report.writing import write_report

__all__ = ["write_report"]
