"""`calibrate`: scales and zero points from arrays in files, or with `--merge` from the statistics of several runs."""

import argparse
from typing import Any

import numpy as np

from quantcore import CalibrationResult, Calibrator, QuantMode
from quantcore._base.text import brief, table
from quantcore.calibration.files import calibrate_files
from quantcore.calibration.omission import NAN_POLICIES
from quantcore.calibration.results import METHODS
from quantcore.calibration.state_files import merge_statistics, save_statistics, statistics_parts
from quantcore.cli.arguments import PROGRAM, STDOUT, add_common, add_parser, regex
from quantcore.cli.terminal import print_json, progress_bar, say, show
from quantcore.errors import InvalidValueError
from quantcore.files.disk import check_output, label

_PERCENTILE_FLAGS = ("lower", "upper")
_DATA_FLAGS = (
    "method",
    "bits",
    "asymmetric",
    "offset",
    "axis",
    *_PERCENTILE_FLAGS,
    "averaging_constant",
    "full_range",
    "exclude",
    "nan_policy",
)


def add_calibrate(commands: Any) -> None:
    """Add the parser of `calibrate`."""
    parser = add_parser(
        commands,
        "calibrate",
        "find scales and zero points for arrays in files",
        """python -c "import numpy as np; np.save('activations.npy', np.random.randn(64, 32))\"""",
        f"{PROGRAM} calibrate activations.npy --method percentile -o stats.json",
    )
    parser.add_argument(
        "inputs", metavar="FILE", nargs="+",
        help=".npy, .npz, .safetensors, Parquet or zarr (a folder or .zip); arrays of the same name count as batches; "
        "with --merge, statistics files",
    )  # fmt: skip
    parser.add_argument(
        "-o",
        "--output",
        metavar="STATS",
        help="statistics file to write (JSON), which quantcore.calibration.load_statistics reads; -: print it instead "
        "of the table",
    )
    parser.add_argument("--merge", action="store_true", help="the files are statistics of earlier runs")
    parser.add_argument(
        "--method", type=_method, choices=METHODS, metavar="NAME", help=f"{', '.join(METHODS)} (default: min_max)"
    )
    parser.add_argument("--bits", metavar="N", type=_integer, help="bits per code, 2 to 8 (default: 8)")
    parser.add_argument("--asymmetric", action="store_true", help="codes with a zero point")
    parser.add_argument(
        "--offset", action="store_true", help="codes with an offset, for data: the range is not widened to zero"
    )
    parser.add_argument("--axis", metavar="N", type=_integer, help="one scale per index of this axis")
    parser.add_argument("--lower", metavar="PERCENT", type=_number, help="percentile: lower end (default: 0.01)")
    parser.add_argument("--upper", metavar="PERCENT", type=_number, help="percentile: upper end (default: 99.99)")
    parser.add_argument(
        "--averaging-constant", metavar="C", type=_number,
        help="moving_average: the weight of a new batch (default: 0.01)",
    )  # fmt: skip
    parser.add_argument(
        "--full-range", action="store_true", help="symmetric codes from -128 instead of -127 (for 8 bits)"
    )
    parser.add_argument(
        "--exclude", metavar="REGEX", action="append", default=[], type=regex,
        help="leave out arrays whose name matches; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--nan-policy",
        choices=NAN_POLICIES,
        metavar="NAME",
        help="raise, or omit NaN from the statistics (default: raise)",
    )
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
    to_stdout = options.output == STDOUT
    if to_stdout and options.json:
        options.error("-o - prints the statistics, so it does not go with --json")
    if options.output is not None and not to_stdout:  # refuse a bad output before the work, not after it
        check_output(options.output, force=options.force, inputs=inputs)
    if calibrator is None:
        calibrators = merge_statistics(inputs)
    else:
        with progress_bar(options, "calibrate") as progress:
            calibrators = calibrate_files(
                inputs,
                calibrator,
                exclude=options.exclude,
                nan_policy=options.nan_policy or "raise",
                notify=lambda text: say(f"note: {text}"),
                n_threads=options.threads,
                progress=progress,
            )
    if to_stdout:
        for part in statistics_parts(calibrators):
            show(part, end="")
        return 0
    results = {name: found.compute_named(label(name)) for name, found in calibrators.items()}
    if options.output is not None:
        save_statistics(options.output, calibrators, force=options.force, inputs=inputs)
    if options.json:
        print_json({"output": options.output, "results": {name: r.to_dict() for name, r in results.items()}})
    else:
        rows = [_row(name, calibrators[name], result) for name, result in results.items()]
        has_offsets = any(found.mode is QuantMode.OFFSET for found in calibrators.values())
        last = "zero point or offset" if has_offsets else "zero point"
        head = ("array", "method", "bits", "scales", "min", "max", "clip min", "clip max", "scale", last)
        show(table(head, rows, right=range(2, len(head))))
    return 0


def _calibrator(options: argparse.Namespace) -> Calibrator:
    name = options.method or "min_max"
    for flag, wanted in (("lower", "percentile"), ("upper", "percentile"), ("averaging_constant", "moving_average")):
        if getattr(options, flag) is not None and name != wanted:
            options.error(f"--{flag.replace('_', '-')} goes with --method {wanted} only")
    if options.offset and options.asymmetric:
        options.error("--offset does not go with --asymmetric")
    if options.full_range and (options.asymmetric or options.offset):
        options.error("--full-range goes with symmetric codes only")
    flags = (*_PERCENTILE_FLAGS, "averaging_constant")
    parameters = {flag: getattr(options, flag) for flag in flags if getattr(options, flag) is not None}
    try:
        calibrator: Calibrator = getattr(Calibrator, name)(
            8 if options.bits is None else options.bits,
            not options.asymmetric,
            axis=options.axis,
            narrow_range=not options.full_range,
            mode=QuantMode.OFFSET if options.offset else None,
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
        _span(np.ravel(result.zero_point), "d") if result.offset is None else _span(np.ravel(result.offset), ".6g"),
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
        raise argparse.ArgumentTypeError(f"expected an integer, got {brief(text)}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {brief(text)}") from None
