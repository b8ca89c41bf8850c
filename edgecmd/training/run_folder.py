"""Being taken down: `edgecmd.run.Run.new_student`."""

from edgecmd.config.schema import RunConfig
from edgecmd.models.students import Student


def new_student(config: RunConfig) -> Student:
    """Being taken down: `edgecmd.run.Run.new_student`."""
    from edgecmd.data.problem import process

    return process().run(config).new_student()
