"""What every wing stands on: the boundary for arrays and arguments, threads, records, patterns, text.

Modules
-------
arrays : the boundary: every array of a user passes through it once.
lengths : how many values vectors have that come one by one.
arguments : checks of integers, numbers, flags and shapes.
parallel : chunks of whole blocks to threads.
records : frozen records and their pickles.
patterns : regular expressions that choose tensors.
text : tables, sizes and values for people; notebook : tables in HTML; plotting : matplotlib.
extras : optional packages, and how to install them.
machine : what figures of speed are recorded with.
"""
