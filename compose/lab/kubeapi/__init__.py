"""An API server for the lab: Kubernetes' verbs on objects in memory, for reflectors, controllers and kubectl.

    server.py     the HTTP face, embeddable: KubeApi().serving(sockets)
    api.py        the verbs: get, list, create, replace, patch, delete, bind
    rules.py      what happens to an object on its way in        crds.py      kinds that are added at run time
    defaults.py   what is filled in                              validation/  what is refused, field by field
    store.py      objects, versions, history                     watching.py  what a watcher is told
    selectors.py  label and field selectors                      patches.py   merge, JSON and strategic patches
    kinds.py      what is served                                 discovery.py, openapi.py   the documents that say so
    tables.py     what `kubectl get` prints                      allocation.py              addresses of Services
    status.py     refusals in Kubernetes' words                  faults.py    what goes wrong on purpose

Only server.py and faults.py know of asyncio. Nothing here schedules pods or runs controllers.
"""

from compose.lab.kubeapi.server import KubeApi

__all__ = ["KubeApi"]
