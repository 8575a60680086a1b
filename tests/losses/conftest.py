"""MONAI by way of medseg, before a test imports it by itself: so MLflow is not imported along with it."""

import medseg.monai_parts  # noqa: F401
