"""What every other package stands on: files, processes, devices and the command line.

Comes in: paths, arguments, functions to call in parallel.
Goes out: whole files, results in order, one clear line where something is wrong.
Imports none of the other packages.
"""
