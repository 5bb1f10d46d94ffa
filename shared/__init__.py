"""What services share: values, contracts, and the thin shell around every core. It knows no service.

    model.py      pods, attachments, modes; ids as NewTypes       errors.py     the tree of errors
    contracts/    the RPC methods by which services meet          rpc/          wire, client, server, address
    lifecycle.py  one event loop, two signals, one instance       reconcile.py  poke -> run, retry, resync
    config.py     file + environment -> Structs, all problems     eni_conf.py   Terway's own configuration keys
    http.py       /healthz /readyz /state /metrics                health.py     what is wrong, for the first two
    metrics.py    registry, gauges computed at scrape             log.py        JSON lines with a request id
    sqlite.py     one writer thread, group commit                 backoff.py    pauses between attempts, Terway's table
    crashpoint.py where tests let a service die                   dump.py       anything as JSON, secrets as ***
    secret.py     a value that must not be seen                   duration.py   Go's 1h30m
    launch.py     a service's command line                        kube/         requests, client, reflector, events

Importing a module here imports only what it needs: `rpc` not aiohttp, `model` nothing but msgspec.
"""
