"""First weights of a student of strings from the names of a few languages that count as public.

``python -m tests.words_start OUT.safetensors en,en-gb STEPS --set ...``: the English names of emoji are
published and known to every phone, so a start from them spends no privacy. All other languages are not read.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.losses import loss_of
from edgecmd.models.student_file import save_student
from edgecmd.models.students import Student
from edgecmd.run import Run
from edgecmd.training.distill import Place, distil, make_optimizer

BATCH, RATE = 256, 5e-3


def public_start(run: Run, languages: list[str], *, num_steps: int) -> Student:
    """Distil a new student on the training pairs of some languages, in one place."""
    owner = run.task.data.train_owner
    public = np.isin(owner.values, [owner.names.index(one) for one in languages])
    distill = replace(
        run.distill, loss="cmc", batch_size=BATCH, learning_rate=RATE, optimizer="adamw", schedule="cosine"
    )
    federation = replace(run.federation, num_rounds=num_steps, local_steps=1)
    student, data = run.new_student(), run.task.local_data(np.flatnonzero(public))
    optimizer = make_optimizer(student, distill)
    for index in range(num_steps):
        place = Place.of_round(federation, seed=run.seed, round_index=index + 1)
        loss = loss_of(distill)
        distil(student, data, run.anchors, distill, loss=loss, num_steps=1, place=place, optimizer=optimizer)
    return student.eval()


if __name__ == "__main__":
    out, names, steps, *settings = sys.argv[1:]
    asked = load_config(None, ["data.name=words", *(one for one in settings if one != "--set")])
    made = public_start(Assembly().run(asked), names.split(","), num_steps=int(steps))
    save_student(made, Path(out))
