# Makes the folder a package, so that its .pxd files can be cimported.
