"""`calibrate`: scales and zero points from arrays in files; with `--merge` from the statistics of several runs."""

import argparse
from typing import Any

import numpy as np

from quantcore import CalibrationResult, Calibrator
from quantcore._files import check_output
from quantcore.calibration_files import calibrate_files
from quantcore.cli.arguments import add_common, regex
from quantcore.cli.terminal import print_json, progress_bar
from quantcore.errors import InvalidValueError
from quantcore.statistics_files import merge_statistics, save_statistics
from quantcore.tables import table

METHODS = ("min_max", "moving_average", "percentile", "entropy", "mse")
_PERCENTILE_FLAGS = ("lower", "upper")
_DATA_FLAGS = (
    "method",
    "bits",
    "asymmetric",
    "axis",
    *_PERCENTILE_FLAGS,
    "averaging_constant",
    "full_range",
    "exclude",
)


def add_commands(commands: Any) -> None:
    """Add the parser of `calibrate`."""
    parser = commands.add_parser("calibrate", help="find scales and zero points for arrays in files")
    parser.add_argument(
        "inputs", metavar="FILE", nargs="+",
        help=".npy, .npz or .safetensors; arrays of the same name are batches of one another; with --merge statistics",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="STATS", help="statistics file to write (JSON)")
    parser.add_argument("--merge", action="store_true", help="the files are statistics of earlier runs")
    parser.add_argument(
        "--method", type=_method, choices=METHODS, metavar="NAME", help=f"{', '.join(METHODS)} (default: min_max)"
    )
    parser.add_argument("--bits", metavar="N", type=_integer, help="bits of a code, 2 to 8 (default: 8)")
    parser.add_argument("--asymmetric", action="store_true", help="codes with a zero point")
    parser.add_argument("--axis", metavar="N", type=_integer, help="a scale for each index of this axis")
    parser.add_argument("--lower", metavar="PERCENT", type=_number, help="percentile: lower end (default: 0.01)")
    parser.add_argument("--upper", metavar="PERCENT", type=_number, help="percentile: upper end (default: 99.99)")
    parser.add_argument(
        "--averaging-constant", metavar="C", type=_number,
        help="moving_average: the weight of a new batch (default: 0.01)",
    )  # fmt: skip
    parser.add_argument("--full-range", action="store_true", help="symmetric codes down to -128 (of 8 bits)")
    parser.add_argument(
        "--exclude", metavar="REGEX", action="append", default=[], type=regex,
        help="leave out arrays whose name has the pattern; may be given again",
    )  # fmt: skip
    add_common(parser)
    parser.set_defaults(command=_calibrate, error=parser.error)


def _calibrate(options: argparse.Namespace) -> int:
    inputs = tuple(options.inputs)
    calibrator = None if options.merge else _calibrator(options)
    if options.merge:
        for name in _DATA_FLAGS:
            value = getattr(options, name)
            if value is not None and value is not False and value != []:
                options.error(f"--{name.replace('_', '-')} does not go with --merge")
    if options.output is not None:  # before the work rather than after it
        check_output(options.output, force=options.force, inputs=inputs)
    if calibrator is None:
        calibrators = merge_statistics(inputs)
    else:
        with progress_bar(options, "calibrate") as progress:
            calibrators = calibrate_files(
                inputs, calibrator, exclude=options.exclude, n_threads=options.threads, progress=progress
            )
    results = {name: found.compute() for name, found in calibrators.items()}
    if options.output is not None:
        save_statistics(options.output, calibrators, force=options.force, inputs=inputs)
    if options.json:
        print_json({"output": options.output, "results": {name: r.to_dict() for name, r in results.items()}})
    else:
        rows = [_row(name, calibrators[name], result) for name, result in results.items()]
        head = ("array", "method", "bits", "scales", "min", "max", "clip min", "clip max", "scale", "zero point")
        print(table(head, rows, right=range(2, len(head))))
    return 0


def _calibrator(options: argparse.Namespace) -> Calibrator:
    name = options.method or "min_max"
    for flag, wanted in (("lower", "percentile"), ("upper", "percentile"), ("averaging_constant", "moving_average")):
        if getattr(options, flag) is not None and name != wanted:
            options.error(f"--{flag.replace('_', '-')} goes with --method {wanted} only")
    if options.full_range and options.asymmetric:
        options.error("--full-range goes with symmetric codes only")
    flags = (*_PERCENTILE_FLAGS, "averaging_constant")
    parameters = {flag: getattr(options, flag) for flag in flags if getattr(options, flag) is not None}
    try:
        calibrator: Calibrator = getattr(Calibrator, name)(
            8 if options.bits is None else options.bits,
            not options.asymmetric,
            axis=options.axis,
            narrow_range=not options.full_range,
            **parameters,
        )
    except InvalidValueError as error:
        options.error(str(error))
    return calibrator


def _row(name: str, calibrator: Calibrator, result: CalibrationResult) -> tuple[str, ...]:
    scales = np.ravel(result.scale)
    return (
        name,
        result.method.name,
        str(calibrator.bits),
        str(scales.size),
        f"{np.min(result.observed_min):.6g}",
        f"{np.max(result.observed_max):.6g}",
        f"{np.min(result.clip_min):.6g}",
        f"{np.max(result.clip_max):.6g}",
        _span(scales, ".6g"),
        _span(np.ravel(result.zero_point), "d"),
    )


def _span(values: Any, form: str) -> str:
    low, high = (format(value.item(), form) for value in (values.min(), values.max()))
    return low if low == high else f"{low} .. {high}"


def _method(text: str) -> str:
    return text.lower().replace("-", "_")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
