"""Versions in object stores and on web servers: listing, fetching, and the local cache.

No module here is imported, and no driver is opened, until a model has a remote base path. The source that lists
versions is `servable.sources._remote`; the fetch during a load is in `servable.loaders._fetching`.
"""
