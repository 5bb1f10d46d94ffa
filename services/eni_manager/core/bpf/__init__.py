"""Programs for the kernel's BPF machine, written here and assembled here: nodes need no compiler.

assembly.py   instructions and labels -> bytes
host_path.py  the one program there is: what pods send to Services goes through the node's own stack
"""
