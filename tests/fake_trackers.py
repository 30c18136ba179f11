"""Stand-ins for the packages wandb and trackio: the part of their interface that is used here, and what they keep."""

import importlib.machinery
from types import ModuleType, SimpleNamespace


def _module(name):
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # what find_spec looks at
    module.Table = lambda columns, data: ("table", columns, data)
    module.Image = lambda pixels: ("image", pixels)
    return module


def fake_wandb(login=True):
    """W&B: pages by their id, whose counter only grows, and axes by `define_metric`. `.pages` is what it holds."""
    module, pages = _module("wandb"), {}
    module.Html = lambda page, inject: ("html", page.read(), inject)

    def log_in():
        module.logins += 1
        if not login:
            raise RuntimeError("No API key configured. Use `wandb login` to log in.\nmore")

    def init(project=None, name=None, id=None, config=None, dir=None, resume=None, **more):
        assert not more, "this is all that is given"
        page = pages.setdefault(id, SimpleNamespace(project=project, points=[], axes={}, ends=[], steps=[]))
        assert resume == "allow"
        page.name, page.config, page.dir = name, config, dir
        module.page = page
        return SimpleNamespace(
            log=log, define_metric=lambda name, step_metric=None: page.axes.update({name: step_metric})
        )

    def log(values, step=None):
        page = module.page
        step = len(page.points) if step is None else step
        if page.steps and step < page.steps[-1]:
            return  # "Steps must be monotonically increasing, so this data will be ignored"
        page.steps.append(step)
        page.points.append(values)

    def finish(exit_code=None):
        module.page.ends.append(exit_code)

    module.init, module.finish, module.login, module.pages, module.logins = init, finish, log_in, pages, 0
    return module


def fake_trackio():
    """trackio: pages by their name, no axes, any step; `finish` takes nothing."""
    module, pages = _module("trackio"), {}

    def init(project, name=None, config=None, resume="never"):
        page = pages.setdefault(name, SimpleNamespace(project=project, config=config, points=[], ends=[]))
        assert resume == "allow"
        module.page = page
        return SimpleNamespace(log=lambda values, step=None: page.points.append({**values, "step": step}))

    def finish():
        module.page.ends.append(None)

    module.init, module.finish, module.pages = init, finish, pages
    return module
