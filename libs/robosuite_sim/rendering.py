"""Two ways to draw the same scene: LIBERO's own pictures, and a cheaper setting for CPUs.

On a CPU the time goes into vertices (a libero_object scene has 300,000 triangles) and into multisampling.
"fast" leaves out multisampling, reflections and shadows, draws coarser meshes, and skips what the camera
cannot see. The physics is the same to the bit; the pictures are not, so a policy must be trained and
evaluated with the same setting, and "fast" is never a reported LIBERO result.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from libs.errors import BadInput


@dataclass(frozen=True)
class RenderSetting:
    """What the renderer draws."""

    reflections: bool
    shadows: bool
    multisamples: int | None  # samples per pixel; None keeps the model's own value
    mesh_cell: float  # metres: vertices of visual meshes closer than this are merged; 0 keeps the meshes
    cull: bool  # skip geoms outside the camera's view: exact, but only without reflections and shadows


RENDER_SETTINGS = {
    "standard": RenderSetting(reflections=True, shadows=True, multisamples=None, mesh_cell=0.0, cull=False),
    "fast": RenderSetting(reflections=False, shadows=False, multisamples=0, mesh_cell=0.004, cull=True),
}

VISUAL_GROUP, HIDDEN_GROUP = 1, 5  # robosuite draws geoms of group 1; group 5 is drawn by nobody


def get_render_setting(name: str) -> RenderSetting:
    """The setting called `name`. BadInput, listing the names, if there is none."""
    if name not in RENDER_SETTINGS:
        raise BadInput(f"unknown render setting {name!r}: known are {', '.join(RENDER_SETTINGS)}")
    return RENDER_SETTINGS[name]


def apply_render_setting(sim: Any, setting: RenderSetting) -> None:
    """Change robosuite's offscreen renderer of `sim` to `setting`, once, after the env was made."""
    import mujoco

    context = sim._render_context_offscreen
    if setting.mesh_cell > 0:
        merge_close_vertices(sim.model._model, setting.mesh_cell)
    if setting.multisamples is not None:
        sim.model.vis.quality.offsamples = setting.multisamples
    if setting.mesh_cell > 0 or setting.multisamples is not None:
        context.con.free()  # the context holds its own copies of the meshes and buffers
        context._set_mujoco_context_and_buffers()
    context.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = setting.reflections
    context.scn.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = setting.shadows
    if setting.cull:
        _cull_before_rendering(sim, context)


def merge_close_vertices(model: Any, cell: float) -> None:
    """Coarsen the visual meshes of a mujoco.MjModel in place: one vertex per cube of side `cell` metres.

    Only the lists of triangles change (normals and texture coordinates stay with their triangle), so
    collisions, masses and everything else of the physics stay as they are.
    """
    mesh_type = 7  # mujoco.mjtGeom.mjGEOM_MESH
    drawn = (model.geom_group == VISUAL_GROUP) & (model.geom_type == mesh_type)
    for mesh in np.unique(model.geom_dataid[drawn]):
        start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        first_vertex = model.mesh_vertadr[mesh]
        vertices = model.mesh_vert[first_vertex : first_vertex + model.mesh_vertnum[mesh]]
        faces = model.mesh_face[start : start + count].copy()
        kept, corners = _merged_faces(vertices, faces, cell)
        if len(kept) == 0:
            continue  # a mesh smaller than a cell
        end = start + len(kept)
        for attribute in (model.mesh_facenormal, model.mesh_facetexcoord):
            attribute[start:end] = attribute[start : start + count][kept]
        model.mesh_face[start:end] = corners
        model.mesh_facenum[mesh] = len(kept)


def _merged_faces(vertices: np.ndarray, faces: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (K,) of the triangles that survive merging, and their corners (K, 3) as indices of vertices."""
    cubes = np.floor(vertices / cell).astype(np.int64)
    _, cube_of = np.unique(cubes, axis=0, return_inverse=True)
    cube_of = cube_of.reshape(-1)
    sizes = np.bincount(cube_of)
    centres = np.stack([np.bincount(cube_of, vertices[:, axis]) / sizes for axis in range(3)], axis=1)
    distance = ((vertices - centres[cube_of]) ** 2).sum(1)
    order = np.lexsort((distance, cube_of))
    representative = order[np.cumsum(sizes) - sizes]  # of each cube: its vertex nearest to their mean
    corners = cube_of[faces]  # (F, 3)
    kept = np.flatnonzero((corners != np.roll(corners, 1, axis=1)).all(1))
    _, unique = np.unique(np.sort(corners[kept], axis=1), axis=0, return_index=True)
    kept = kept[np.sort(unique)]
    return kept, representative[corners[kept]]


def _cull_before_rendering(sim: Any, context: Any) -> None:
    """Make `context.render` hide the geoms whose bounding spheres lie outside the camera's view."""
    draw, model, data = context.render, sim.model._model, sim.data._data

    def render(width, height, camera_id=None, segmentation=False):
        groups = model.geom_group.copy()
        if camera_id is not None and camera_id >= 0:
            model.geom_group[_out_of_view(model, data, camera_id, width / height)] = HIDDEN_GROUP
        try:
            draw(width, height, camera_id=camera_id, segmentation=segmentation)
        finally:
            model.geom_group[:] = groups

    context.render = render


def _out_of_view(model: Any, data: Any, camera_id: int, aspect: float) -> np.ndarray:
    """(ngeom,) bool: geoms certainly outside the camera's pyramid. Planes (radius 0) are never among them."""
    axes = data.cam_xmat[camera_id].reshape(3, 3)  # columns: right, up, backward
    centres = (data.geom_xpos - data.cam_xpos[camera_id]) @ axes
    radius, depth = model.geom_rbound, -centres[:, 2]
    slope_y = np.tan(np.deg2rad(model.cam_fovy[camera_id]) / 2)
    outside = depth + radius < 0
    for axis, slope in ((0, slope_y * aspect), (1, slope_y)):
        outside |= np.abs(centres[:, axis]) - slope * depth > radius * np.hypot(1, slope)
    return outside & (radius > 0)
