"""Files, whatever they hold.

Modules
-------
disk : inputs read by position, outputs written atomically; offers what others need of inputs, paths and temporaries.
paths : what is a path, and errors that name one.
tensor_reader : what readers of files of tensors share.
system : what operating systems do differently, the only module that asks which one this is.
part_folder : parts of an output by several processes, kept until all are there.
kinds : what a file is, by its first bytes.
strict_json : JSON that may be hostile.
streaming : slabs that are read, computed and written concurrently.
"""
