"""The border to the extension: every dataclass and protocol that crosses it."""
