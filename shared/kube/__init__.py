"""The seam to Kubernetes: requests built by aiokubernetes, sent by aiohttp, decoded into the few fields we read.

    requests.py   aiokubernetes' Proxy as a pure request builder; the only file that knows the library
    client.py     KubeClient: get, list, create, replace, patch, delete, watch; errors in the suite's own words
    reflector.py  Reflector: keeps what the API server holds of one kind, and says what changes
    mirror.py     the reflector's memory and decisions, without I/O
    recorder.py   Recorder: posts core/v1 Events without holding anybody up

Read objects.py and resources.py for the kinds, reflector.py for how a list and a watch stay together.
"""
