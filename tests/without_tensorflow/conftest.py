"""The conftest.py above imports TensorFlow, and is not loaded."""

from seeding import pytest_fixture_setup, seeded  # noqa: F401
