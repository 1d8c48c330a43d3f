"""What every room stands on: files, processes, devices and the command line.

Comes in: paths, arguments, functions to call in parallel.
Goes out: whole files, results in order, one clear line where something is wrong.
Imports nothing of the other rooms.
"""
