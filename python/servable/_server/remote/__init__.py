"""Versions that lie in object stores and on web servers: listing, fetching, and the local cache.

Nothing here is imported, and no driver is opened, until a model has a remote base path. The source
that lists is `servable.sources._remote`; what fetches as a part of loading is
`servable.loaders._fetching`.
"""
