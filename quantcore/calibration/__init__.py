"""Post-training calibration: scales and zero points from the statistics of data that streams by.

Modules
-------
calibrator : `Calibrator`, with five methods; calibrator_states : the same for JSON.
results : the method and the result as records.
one_array : calibration in one call.
omission : masks, and NaN that is left out.
files : calibration of arrays in files, one calibrator per name.
state_files : statistics files: load, save, merge.
statistic : what a method keeps, and the range that it takes from it.
extremes, histograms : the two kinds of statistics.
modes : the mode of the codes.
clipping, percentiles : where to clip, from a histogram or exactly.
"""

from quantcore.calibration.calibrator import Calibrator
from quantcore.calibration.files import calibrate_files
from quantcore.calibration.one_array import calibrate_min_max, calibrate_percentile
from quantcore.calibration.results import CalibrationMethod, CalibrationResult
from quantcore.calibration.state_files import load_statistics, merge_statistics, save_statistics

__all__ = [
    "CalibrationMethod",
    "CalibrationResult",
    "Calibrator",
    "calibrate_files",
    "calibrate_min_max",
    "calibrate_percentile",
    "load_statistics",
    "merge_statistics",
    "save_statistics",
]
