"""Xinference's client alone installs as `xinference_client`; only the whole server has it under this name."""

from xinference_client import *  # noqa: F403
