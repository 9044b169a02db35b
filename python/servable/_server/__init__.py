"""The server and its control plane; not public, see ARCHITECTURE.md."""
