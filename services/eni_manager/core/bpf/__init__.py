"""Programs for the kernel's BPF machine, written here and assembled here: nodes need no compiler.

assembly.py   instructions and labels -> bytes
host_path.py  IPvlan: what pods send to Services goes through the node's own stack
eni_path.py   the same, and from there out by the ENI with the pod's address
own_address.py  exclusive ENIs: the same way, through the pod; and answers to it, in both modes
flows.py      what the latter two have in common
"""
