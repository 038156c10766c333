"""Templates: the shipped ones, validation, parameters."""

from labd.features.templates.schemas import TemplateText
from labd.features.templates.shipped import ShippedTemplates

__all__ = [
    "ShippedTemplates",
    "TemplateText",
]
