"""How actions are written for a model: as differences, rotations in another form."""

from libs.action_form.form import ActionForm, written_dim
from libs.action_form.rotation import FORMS, is_form, size

__all__ = ["FORMS", "ActionForm", "is_form", "size", "written_dim"]
