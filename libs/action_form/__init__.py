"""How actions are written for a model: as differences, rotations in another form."""

from libs.action_form.form import ActionForm, written_dim
from libs.action_form.rotation import FORMS, is_form, size
from libs.action_form.turns import NO_ROTATIONS, Rotations

__all__ = ["FORMS", "NO_ROTATIONS", "ActionForm", "Rotations", "is_form", "size", "written_dim"]
